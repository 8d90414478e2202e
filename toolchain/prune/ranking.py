"""How many channels each group keeps: pure functions of the scores.

A group loses its least salient units in notches, each of which leaves a multiple of `round_to`. Within a scope the
notches are ranked by the mean score of their units. One scope per group is local pruning, one for all is global, one
per structure is isomorphic pruning (Fang et al. 2024, arXiv:2407.04616).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from torch import Tensor

CLOSE = 1e-9  # shares that differ by less are equal: 1 - 0.9 is not 0.1 in floating point


@dataclass(frozen=True)
class Width:
    """A group before any pruning. weight: channels that each of its units stands for (a grouped layer's blocks)."""

    units: int
    weight: int = 1


@dataclass(frozen=True)
class Notch:
    """A group is left with `kept` units; `gone` is the share of its scope's channels that is gone by then, 0 to 1."""

    group: str
    kept: int
    gone: float


@dataclass(frozen=True)
class Scope:
    """Groups that are ranked together. gone: share of their channels that went before. notches: in order of taking."""

    groups: tuple[str, ...]
    gone: float
    notches: Sequence[Notch]

    @property
    def most(self) -> float:
        """The largest share of the scope's channels that can go."""
        return self.notches[-1].gone if self.notches else self.gone


def rank(
    scores: Mapping[str, Tensor], scope_of: Mapping[str, Hashable], widths: Mapping[str, Width], cap: float,
    round_to: int,
) -> list[Scope]:
    """Put the notches of every scope in order, smallest mean score first; of equal ones the first group's.

    scores: (units that are left,) per group. scope_of: group -> which scope it is in. widths: before any pruning; no
    group loses more than `cap` of that. Kept units are multiples of round_to, or as many as there are now.
    """
    scopes = []
    for which in dict.fromkeys(scope_of.values()):
        groups = tuple(name for name in scores if scope_of[name] == which)
        total = sum(widths[name].units * widths[name].weight for name in groups)
        gone = sum((widths[name].units - len(scores[name])) * widths[name].weight for name in groups)
        before, found = gone, []
        ranked = sorted(((score, name, kept, units) for name in groups
                         for score, kept, units in _steps(scores[name], widths[name], cap, round_to)),
                        key=lambda notch: notch[0])  # stable: a group's own stay in order
        for _, name, kept, units in ranked:
            gone += units * widths[name].weight
            found.append(Notch(name, kept, gone / total))
        scopes.append(Scope(groups, before / total, found))
    return scopes


def kept_at(scopes: Sequence[Scope], start: Mapping[str, int], share: float) -> dict[str, int]:
    """Units that each group keeps when every scope has lost `share` of its channels and no notch more.

    start: the units now. A scope that cannot lose so much loses all that it can.
    """
    kept = dict(start)
    for scope in scopes:
        gone = scope.gone
        for notch in scope.notches:
            if gone >= share - CLOSE:
                break
            kept[notch.group], gone = notch.kept, notch.gone
    return kept


def shares(scopes: Sequence[Scope]) -> list[float]:
    """Every share at which `kept_at` takes another notch, rising."""
    return sorted({notch.gone for scope in scopes for notch in scope.notches})


def allowed(units: int, now: int, cap: float, round_to: int) -> list[int]:
    """What a group of `units`, of which `now` are left, may be left with: falling, from `now` on."""
    least = max(1, ceil(units * (1 - cap) - CLOSE))
    return [now, *(kept for kept in range(now - 1, least - 1, -1) if kept % round_to == 0)]


def _steps(scores: Tensor, width: Width, cap: float, round_to: int) -> list[tuple[float, int, int]]:
    """(mean score, units kept, units gone) of each notch of one group."""
    rising = scores.double().sort().values
    now = len(rising)
    return [(float(rising[now - more:now - less].mean()), less, more - less)
            for more, less in pairwise(allowed(width.units, now, cap, round_to))]

"""Structured channel pruning: the least salient channels go, with all that is tied to them (Fang et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from toolchain.errors import TrainError
from toolchain.prune.cost import Cost, cost, cost_at
from toolchain.prune.groups import Traced, remove, structure, trace
from toolchain.prune.ranking import CLOSE, Scope, Width, kept_at, rank, shares
from toolchain.prune.saliency import Batches, least, saliencies
from toolchain.recipe.prune import Channels

History = dict[str, Any]  # {"image_size": pixels, "steps": groups.Steps}
NAMES = {"params": "parameters", "macs": "multiply-accumulates"}

# (traced network, group) -> groups with the same answer are ranked together
SCOPES: dict[str, Callable[[Traced, str], Hashable]] = {
    "local": lambda traced, name: name, "global": lambda traced, name: None, "isomorphic": structure}


@dataclass(frozen=True)
class Whole:
    """The network before any round: what shares are shares of."""

    widths: Mapping[str, Width]
    cost: Cost


def measure_whole(model: nn.Module, image_size: int) -> Whole:
    """Widths of the groups and cost of a network that is yet to be pruned. Raises TrainError."""
    traced = trace(copy.deepcopy(model), image_size)
    return Whole({name: Width(group.units, group.blocks) for name, group in traced.groups.items()},
                 cost(traced.model, image_size))


def prune_channels(
    model: nn.Module, cfg: Channels, image_size: int, *, number: int | None = None, whole: Whole | None = None,
    seed: int = 0, batches: Batches = (),
) -> tuple[nn.Module, History]:
    """A copy of `model` after round `number` (from 1; None: the last), least salient channels first.

    whole: the network before the first round; None: `model` itself. After round k of n the share that is gone of what
    `cfg` counts is at least 1 - (1 - share) ** (k / n) of that network's, and with one notch less it would not be.
    batches: for saliency taylor. The logits keep their number. Returns the copy, in eval mode, and a JSON-able history
    that `replay_channels` repeats exactly. Raises TrainError when the network cannot be traced, or the last round's
    share cannot be reached.
    """
    whole = whole or measure_whole(model, image_size)
    traced = trace(copy.deepcopy(model), image_size)
    scores = saliencies(traced, cfg.saliency, seed, batches)
    scope_of = {name: SCOPES[cfg.ranking](traced, name) for name in scores}
    scopes = rank(scores, scope_of, whole.widths, cfg.cap, cfg.round_to)
    share = cfg.share if number in (None, cfg.rounds) else 1 - (1 - cfg.share) ** ((number or 1) / cfg.rounds)
    kept = _by_ratio(scopes, traced, cfg, share) if cfg.counts == "ratio" else _by_cost(
        scopes, traced, cfg, share, whole.cost, cost(traced.model, image_size))
    removed = {name: least(score, len(score) - kept[name]) for name, score in scores.items()}
    smaller, steps = remove(model, image_size, removed)
    return smaller, {"image_size": image_size, "steps": steps}


def _by_ratio(scopes: Sequence[Scope], traced: Traced, cfg: Channels, share: float) -> dict[str, int]:
    if short := [scope for scope in scopes if scope.most < cfg.share - CLOSE]:
        shown = ", ".join(f"{scope.groups[0]} ({traced.groups[scope.groups[0]].channels} channels"
                          + (f", with {len(scope.groups) - 1} other groups" if len(scope.groups) > 1 else "")
                          + f") can lose {100 * scope.most:.3g} %" for scope in short[:3])
        more = f", and {len(short) - 3} more" if len(short) > 3 else ""
        raise TrainError(f"prune.ratio: {cfg.share:g} would leave too few channels: with at most {cfg.cap:g} of any "
                         f"layer gone and multiples of {cfg.round_to} left, {shown}{more}; use a smaller prune.ratio "
                         "or prune.round_to, or a larger prune.cap")
    return kept_at(scopes, _now(traced), share)


def _by_cost(
    scopes: Sequence[Scope], traced: Traced, cfg: Channels, share: float, whole: Cost, now: Cost
) -> dict[str, int]:
    """The first notch at which `share` of the whole network's parameters or macs is gone."""
    def gone(kept: Mapping[str, int]) -> float:
        left = cost_at(traced, now, kept)
        return 1 - (left.parameters / whole.parameters if cfg.counts == "params" else left.macs / whole.macs)

    candidates = [0.0, *shares(scopes)]
    if (most := gone(kept_at(scopes, _now(traced), candidates[-1]))) < cfg.share - CLOSE:
        raise TrainError(f"prune.{cfg.counts}: {cfg.share:g} of the {NAMES[cfg.counts]} cannot be removed, at most "
                         f"{most:.4f} with at most {cfg.cap:g} of any layer's channels gone and multiples of "
                         f"{cfg.round_to} left; use a smaller prune.{cfg.counts}, a larger prune.cap or a smaller "
                         "prune.round_to")
    low, high = 0, len(candidates) - 1  # the answer is among them
    while low < high:
        middle = (low + high) // 2
        if gone(kept_at(scopes, _now(traced), candidates[middle])) >= share - CLOSE:
            high = middle
        else:
            low = middle + 1
    return kept_at(scopes, _now(traced), candidates[low])


def _now(traced: Traced) -> dict[str, int]:
    return {name: group.units for name, group in traced.groups.items()}

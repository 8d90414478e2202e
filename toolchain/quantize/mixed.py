"""Which layer gets which precision: by place, by terciles of sensitivity, or at the least loss within a budget.

Losses are KL in nats with that layer alone quantized, added up: layers are taken to harm the network independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TERCILES = ("fp16", "int8", "int4")  # of the most sensitive third, the middle one, the least


@dataclass(frozen=True)
class Option:
    """One layer at one precision. cost: in the budget's unit. loss: in nats."""

    precision: str
    cost: float
    loss: float


def first_and_last(names: Sequence[str]) -> dict[str, str]:
    """The first and the last layer FP16, the others INT8."""
    return {name: "fp16" if place in (0, len(names) - 1) else "int8" for place, name in enumerate(names)}


def terciles(sensitivity: Mapping[str, float]) -> dict[str, str]:
    """The most sensitive third of the layers FP16, the next INT8, the last INT4; of equal ones the earlier counts more.

    Where the number of layers is no multiple of three, the more sensitive thirds have one more.
    """
    ranked = sorted(sensitivity, key=lambda name: -sensitivity[name])  # stable: equal ones stay in order
    place = {name: TERCILES[rank * len(TERCILES) // len(ranked)] for rank, name in enumerate(ranked)}
    return {name: place[name] for name in sensitivity}


def least_cost(options: Mapping[str, Sequence[Option]]) -> dict[str, str]:
    """The cheapest precision of every layer; of equally cheap ones that of the least loss."""
    return {name: min(some, key=lambda option: (option.cost, option.loss)).precision for name, some in options.items()}


def least_loss(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, str] | None:
    """One option per layer with the smallest sum of losses among all whose costs add up to at most `budget`; None where
    none does. Of equal losses the cheapest.

    Exact, and so monotone in the budget. Layer by layer, it keeps every sum of (cost, loss) that no other one beats in
    both (Nemhauser, Ullmann 1969); how many those are grows slowly with the layers (Beier, Vöcking 2004). Costs may be
    negative: gains. Cost: O(layers x options x sums kept), all in numpy.
    """
    names = list(options)
    cheapest = [min(option.cost for option in options[name]) for name in names]
    still = np.append(np.cumsum(cheapest[::-1])[::-1], 0.0)  # the least that the layers from here on cost
    cost, loss = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # per layer, of each kept sum: where it came from, which option
    slack = 1e-9 * max(1.0, abs(budget))
    for place, name in enumerate(names):
        own = options[name]
        costs = np.add.outer([option.cost for option in own], cost).ravel()
        losses = np.add.outer([option.loss for option in own], loss).ravel()
        within = np.flatnonzero(costs + still[place + 1] <= budget + slack)
        order = within[np.lexsort((losses[within], costs[within]))]
        best = np.minimum.accumulate(losses[order])
        better = np.append(True, losses[order][1:] < best[:-1])[: len(order)]
        kept = order[better]
        if not len(kept):
            return None
        steps.append((kept % len(cost), kept // len(cost)))
        cost, loss = costs[kept], losses[kept]
    chosen, at = dict[str, str](), len(cost) - 1  # losses fall as costs rise, so the last is the least
    for name, (parents, which) in zip(reversed(names), reversed(steps), strict=True):
        chosen[name] = options[name][which[at]].precision
        at = int(parents[at])
    return {name: chosen[name] for name in names}


def total(options: Mapping[str, Sequence[Option]], assignment: Mapping[str, str]) -> tuple[float, float]:
    """(cost, loss) of an assignment, added up."""
    taken = [next(option for option in some if option.precision == assignment[name]) for name, some in options.items()]
    return sum(option.cost for option in taken), sum(option.loss for option in taken)

"""How much goes of each layer so that each costs the same accuracy, by what a sensitivity scan found.

A layer's drop over its ratio is made rising (its running maximum, from no drop at ratio 0) and linear in between. For
every common drop that gives each layer an amount; bisection finds the drop whose amounts add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from toolchain.errors import RecipeError, TrainError
from toolchain.recipe.prune import LEAST_DENSITY

Curves = Mapping[str, Sequence[tuple[float, float]]]  # layer -> ((ratio, drop in points), ...), ratios rising
HALVINGS = 200  # of the interval of drops: more than a float64 has digits
SLACK = 1e-9  # of a weight: rounding of shares times sizes


def equal_drop_counts(
    sizes: Mapping[str, int], total: int, curves: Curves, already: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Layer -> how many of its weights go, `total` in all (within one).

    sizes: weights of each layer. already: how many are gone of each, which no count falls below. No layer loses more
    than its largest scanned ratio or 99 %. Raises TrainError saying the largest share where `total` is beyond that,
    RecipeError when the curves are of other layers.
    """
    if odd := sorted(set(sizes) ^ set(curves)):
        raise RecipeError(f"prune.scan.file: it scans the layers {', '.join(list(curves)[:3])}, …, and {odd[0]} is a "
                          "layer of only one of it and this network; scan this recipe's network again")
    rising = {name: envelope(curves[name]) for name in sizes}
    limits = limits_of(sizes, curves)
    if total > sum(limits.values()):
        most = math.floor(1e4 * sum(limits.values()) / sum(sizes.values())) / 1e4
        raise TrainError(f"prune.amount: found {total / sum(sizes.values()):.4g} of the weights, but the scan covers "
                         f"at most {most:g}; use a smaller amount, or larger prune.scan.ratios")
    exact = _exact(sizes, total, rising)
    floors = {name: min(limits[name], max(math.floor(exact[name] + SLACK), (already or {}).get(name, 0)))
              for name in sizes}
    return _rounded(exact, floors, limits, total)


def limits_of(sizes: Mapping[str, int], curves: Curves) -> dict[str, int]:
    """Layer -> how many of its weights may go: its largest scanned ratio or 99 % of them, rounded down."""
    return {name: math.floor(envelope(curves[name])[-1][0] * size + SLACK) for name, size in sizes.items()}


def envelope(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The curve with its running maximum as drop, from (0, 0) to its last ratio or the largest that may go of a layer.
    """
    rising, most = [(0.0, 0.0)], 1 - LEAST_DENSITY
    for ratio, drop in curve:
        (left, low), high = rising[-1], max(rising[-1][1], drop)
        if ratio > most:
            return [*rising, (most, low + (high - low) * (most - left) / (ratio - left))]
        rising.append((ratio, high))
    return rising


def amount_at(drop: float, rising: Sequence[tuple[float, float]]) -> float:
    """The largest ratio whose drop is at most `drop`; 0 for a negative one."""
    amount = 0.0
    if drop < 0:
        return amount
    for (left, low), (right, high) in zip(rising, rising[1:], strict=False):
        if high > drop:
            return left + (right - left) * (drop - low) / (high - low)
        amount = right
    return amount


def _exact(sizes: Mapping[str, int], total: int, rising: Mapping[str, Sequence[tuple[float, float]]]
           ) -> dict[str, float]:
    """Layer -> weights to remove, `total` in all, not rounded."""
    def at(drop: float) -> dict[str, float]:
        return {name: amount_at(drop, rising[name]) * size for name, size in sizes.items()}

    low, high = -1.0, max(curve[-1][1] for curve in rising.values())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) < total else (low, middle)
    below, above = at(low), at(high)  # apart where a curve is level: there every layer goes the same part of the way
    gap = sum(above.values()) - sum(below.values())
    part = min(1.0, max(0.0, (total - sum(below.values())) / gap)) if gap else 1.0
    return {name: below[name] + part * (above[name] - below[name]) for name in sizes}


def _rounded(exact: Mapping[str, float], floors: Mapping[str, int], limits: Mapping[str, int], total: int
             ) -> dict[str, int]:
    """`floors` with what is missing to `total` added, one weight each, where the largest remainders are."""
    counts = dict(floors)
    missing = total - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name]):
        if missing > 0 and counts[name] < limits[name]:
            counts[name] += 1
            missing -= 1
    return counts

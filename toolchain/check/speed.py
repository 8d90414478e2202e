"""Is an engine slower than it was? Judged on ratios, which survive another day's weather on the same machine.

A run's speed-up over FP32 is a ratio within each round. The slowdown is the baseline's median ratio over the run's,
with a bootstrap interval over the rounds of both (Efron 1979). Its seeds are fixed and the ratios are sorted first, so
the same rounds in any order always give the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from toolchain.check.paired import Outcome

RESAMPLES = 2000
FEWEST_ROUNDS = 6  # a median of fewer has no 99 % interval worth the name


@dataclass(frozen=True)
class Slowdown:
    """1.1: a tenth slower than the baseline. needed: rounds that would decide; None: no number can be told."""

    outcome: Outcome
    value: float
    low: float
    high: float
    needed: int | None


def slowdown(
    before: NDArray[np.float64], after: NDArray[np.float64], tolerance: float, alpha: float,
) -> Slowdown:
    """before, after: (rounds,) speed-ups over FP32. tolerance: 0.1 is a tenth slower. alpha: of the interval.

    A regression lies beyond the tolerance with its whole interval, a pass within. The very same ratios are the same
    measurement, which is as fast as itself.
    """
    value = float(np.median(before) / np.median(after))
    if np.array_equal(before, after):
        return Slowdown("pass", 1.0, 1.0, 1.0, None)
    drawn = np.sort(medians(before, 0) / medians(after, 1))
    low, high = (float(q) for q in np.quantile(drawn, [alpha / 2, 1 - alpha / 2]))
    rounds, limit = min(len(before), len(after)), 1 + tolerance
    if rounds < FEWEST_ROUNDS:
        return Slowdown("not enough evidence", value, low, high, FEWEST_ROUNDS)
    if low > limit or high <= limit:
        return Slowdown("regression" if low > limit else "pass", value, low, high, None)
    reach = (value - low) if value > limit else (high - value)
    distance = abs(value - limit)
    needed = math.ceil(rounds * (reach / distance) ** 2) if distance > reach / 100 else None
    return Slowdown("not enough evidence", value, low, high, max(needed, rounds + 1) if needed else None)


def medians(ratios: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(RESAMPLES,) medians of ratios (rounds,) drawn with replacement."""
    drawn: NDArray[np.float64] = np.median(np.sort(ratios)[_draws(len(ratios), seed)], axis=1)
    return drawn


@lru_cache(maxsize=8)
def _draws(rounds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))

"""Is an engine slower than it was? Judged on ratios, which survive another day's weather on the same machine.

A run's speed-up over FP32 is a ratio within each round. The slowdown is the baseline's median ratio over the run's,
with a bootstrap interval over the rounds of both (Efron 1979). Its seeds are fixed and the ratios are sorted first, so
the same rounds in any order always give the same answer.

Where the interval of half-width R reaches over a limit that is d away, more rounds decide: the variance of the log
slowdown is the sum of the two medians', each falls with its rounds, and R must come down to d.
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
MOST_ROUNDS = 100_000  # that a recipe can ask for
DOMINANT = 2 / 3  # share of the variance from which on one side is to blame


@dataclass(frozen=True)
class Slowdown:
    """1.1: a tenth slower than the baseline.

    needed, baseline_needed: rounds of this run and of the baseline that would decide, together; None: that side has
    enough. Both None without a decision: no number can be told.
    """

    outcome: Outcome
    value: float
    low: float
    high: float
    needed: int | None = None
    baseline_needed: int | None = None


def slowdown(
    before: NDArray[np.float64], after: NDArray[np.float64], tolerance: float, alpha: float,
) -> Slowdown:
    """before, after: (rounds,) speed-ups over FP32. tolerance: 0.1 is a tenth slower. alpha: of the interval.

    A regression lies beyond the tolerance with its whole interval, a pass within. The very same ratios are the same
    measurement, which is as fast as itself.
    """
    value = float(np.median(before) / np.median(after))
    if np.array_equal(before, after):
        return Slowdown("pass", 1.0, 1.0, 1.0)
    baseline, run = medians(before, 0), medians(after, 1)
    low, high = (float(q) for q in np.quantile(np.sort(baseline / run), [alpha / 2, 1 - alpha / 2]))
    limit = 1 + tolerance
    if min(len(before), len(after)) < FEWEST_ROUNDS:
        theirs, ours = (FEWEST_ROUNDS if len(one) < FEWEST_ROUNDS else None for one in (before, after))
        return Slowdown("not enough evidence", value, low, high, ours, theirs)
    if low > limit or high <= limit:
        return Slowdown("regression" if low > limit else "pass", value, low, high)
    reach = (value - low) if value > limit else (high - value)
    spreads = float(np.var(np.log(baseline))), float(np.var(np.log(run)))
    theirs, ours = rounds_needed((len(before), len(after)), spreads, reach, abs(value - limit))
    return Slowdown("not enough evidence", value, low, high, ours, theirs)


def rounds_needed(
    rounds: tuple[int, int], spreads: tuple[float, float], reach: float, distance: float,
) -> tuple[int | None, int | None]:
    """Rounds of (baseline, run) that bring `reach` down to `distance`.

    Of the side whose spread dominates, where it alone can and takes no more than both would together; else of both.
    None: as many as there are; both None: no number can be told. spreads: variances of the two medians, which make up
    reach**2 by their shares.
    """
    if distance <= reach / 100:
        return None, None
    wanted, share = (distance / reach) ** 2, spreads[0] / (spreads[0] + spreads[1])
    needed = [max(math.ceil(n / wanted), n + 1) for n in rounds]
    told: tuple[int | None, int | None] = (needed[0], needed[1])
    side, own = (0, share) if share > 0.5 else (1, 1 - share)
    if own >= DOMINANT and wanted > 1 - own:
        alone = max(math.ceil(rounds[side] * own / (wanted - (1 - own))), rounds[side] + 1)
        if alone - rounds[side] <= sum(needed) - sum(rounds):
            told = (alone, None) if side == 0 else (None, alone)
    if max(n or 0 for n in told) > MOST_ROUNDS:
        return None, None
    return tuple(n and _round_up(n) for n in told)  # type: ignore[return-value]


def _round_up(n: int) -> int:
    """To two digits: an estimate has no more."""
    step: int = 10 ** max(len(str(n)) - 2, 0)
    return -(-n // step) * step


def medians(ratios: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(RESAMPLES,) medians of ratios (rounds,) drawn with replacement."""
    drawn: NDArray[np.float64] = np.median(np.sort(ratios)[_draws(len(ratios), seed)], axis=1)
    return drawn


@lru_cache(maxsize=8)
def _draws(rounds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))

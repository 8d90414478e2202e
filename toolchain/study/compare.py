"""Two rows compared: paired by seed (how training varies) and by test image (which images there happened to be)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolchain.measure.statistics import over_seeds

RESAMPLES = 2000
Verdict = Literal["higher", "lower", "no difference", "one seed"]
Right = NDArray[np.bool_]  # (N,) whether each test image was answered rightly


class Spread(NamedTuple):
    """Of n values: the mean, the sample standard deviation and Student's 95 % interval; None where n < 2."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float

    def holds_zero(self) -> bool:
        """Whether "no difference" is among what it allows."""
        return self.low <= 0 <= self.high


def spread(values: Mapping[int, float]) -> Spread:
    """Over the seeds (the keys) of at least one value."""
    return Spread(**over_seeds(list(values.values())))


def paired_by_seed(values: Mapping[int, float], control: Mapping[int, float]) -> Spread | None:
    """`values` minus `control`, seed by seed, over the seeds that both have; None when they share none."""
    differences = {seed: values[seed] - control[seed] for seed in values if seed in control}
    return spread(differences) if differences else None


def paired_by_image(right: Mapping[int, Right], control: Mapping[int, Right]) -> Interval | None:
    """95 % interval of the difference in top-1, in points: a bootstrap (Efron 1979) over the images of the test set.

    right, control: seed -> answers on the same images. Each image counts with its mean difference over the seeds that
    both have; None when they share none.
    """
    shared = [seed for seed in right if seed in control]
    if not shared:
        return None
    difference = np.mean([right[seed].astype(float) - control[seed] for seed in shared], axis=0)
    levels, counts = np.unique(difference, return_counts=True)  # few: drawing their counts equals drawing images
    drawn = np.random.default_rng(0).multinomial(len(difference), counts / len(difference), size=RESAMPLES)
    low, high = np.quantile(100 * drawn @ levels / len(difference), [0.025, 0.975])
    return Interval(float(low), float(high))


def verdict(by_seed: Spread, by_image: Interval | None) -> Verdict:
    """What a difference shows: nothing where an interval holds 0, nor with a single seed."""
    if by_seed.low is None or by_seed.high is None:
        return "one seed"
    intervals = [Interval(by_seed.low, by_seed.high), *([by_image] if by_image else [])]
    if any(interval.holds_zero() for interval in intervals):
        return "no difference"
    return "higher" if by_seed.mean > 0 else "lower"

"""How sure a number is: over the images of the test set (bootstrap), and over seeds (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from toolchain.errors import DataError

RESAMPLES = 2000
Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile
# Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom (Abramowitz, Stegun 1964, table 26.10)
T95 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)


def paired_interval(values: ArrayLike, seed: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """Mean {value, low, high} of values (N,), one per test image, with a bootstrap 95 % interval (Efron 1979).

    For a difference between two models pass the differences per image: the pairing is what makes it narrow. The unit
    is that of `values`. Raises DataError when there are none or some are not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"statistics: found values of shape {array.shape}, {int((~np.isfinite(array)).sum())} of them "
                        "not finite; expected one finite value per test image, and at least one")
    rng, count = np.random.default_rng(seed), len(array)
    # One resample at a time: an index array of all of them would take gigabytes on a large test set.
    means = [array[rng.integers(count, size=count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(array.mean()), "low": float(low), "high": float(high)}


def difference(values_a: ArrayLike, values_b: ArrayLike, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Mean of a - b over the same test images: {value, low, high, verdict}.

    verdict: whether a is "higher" or "lower" than b; "no difference" where the 95 % interval holds 0.
    Raises DataError when the two do not have one value for each of the same images.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape:
        raise DataError(f"statistics: found {len(a)} and {len(b)} values, expected one of each per test image; judge "
                        "both models on the same test set")
    interval = paired_interval(a - b, seed, resamples)
    verdict = "higher" if interval["low"] > 0 else "lower" if interval["high"] < 0 else "no difference"
    return {**interval, "verdict": verdict}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """{n, mean, std, low, high} of one number from n trainings that differ in their seed.

    std: the sample's (n - 1). low, high: Student's 95 % interval of the mean. One training has neither: null.
    Raises DataError when there is no value, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"statistics: found the values {list(values)}, expected one finite number per seed")
    n, mean = len(array), float(array.mean())
    if n == 1:
        return {"n": 1, "mean": mean, "std": None, "low": None, "high": None}
    std = float(array.std(ddof=1))
    half = t95(n - 1) * std / math.sqrt(n)
    return {"n": n, "mean": mean, "std": std, "low": mean - half, "high": mean + half}


def t95(freedom: int) -> float:
    """Student's t, 97.5 % quantile, for `freedom` >= 1 degrees of freedom.

    Beyond the table: the expansion in 1 / freedom of Abramowitz, Stegun 1964, 26.7.5, right to five digits.
    """
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96,
             (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
             (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160)
    return sum(term / freedom**power for power, term in enumerate(terms))

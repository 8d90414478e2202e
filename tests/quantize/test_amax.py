"""The calibrators, against loops that follow their definitions word by word and against numbers worked by hand."""

import math
import time

import numpy as np
import pytest

from toolchain.quantize.amax import (
    AMAX,
    choose_amax,
    entropy_amax,
    entropy_divergences,
    mse_amax,
    percentile_amax,
    squared_errors,
)
from toolchain.quantize.histogram import Histogram
from toolchain.recipe.schema import EntropyCalibrator, MaxCalibrator, MseCalibrator, PercentileCalibrator

METHODS = {
    "max": MaxCalibrator(method="max"),
    "percentile": PercentileCalibrator(method="percentile"),
    "entropy": EntropyCalibrator(method="entropy"),
    "mse": MseCalibrator(method="mse"),
}


def naive_divergences(counts):
    """KL(P || Q) as the definition reads: bin 0 := bin 1, clip at i, 128 levels spread over non-empty bins."""
    bins = [float(c) for c in counts]
    bins[0] = bins[1]
    found = []
    for i in range(128, len(bins) + 1):
        p = bins[:i]
        p[-1] += sum(bins[i:])
        level = [j * 128 // i for j in range(i)]
        mass, filled = [0.0] * 128, [0] * 128
        for j in range(i):
            if bins[j]:
                mass[level[j]] += bins[j]
                filled[level[j]] += 1
        q = [mass[level[j]] / filled[level[j]] if bins[j] else 0.0 for j in range(i)]
        kl = 0.0
        for a, b in zip(p, q, strict=True):
            if a > 0:
                kl += math.inf if b == 0 else a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
        found.append(kl)
    return found


def histogram_of(values):
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


@pytest.mark.parametrize("seed", range(4))
def test_entropy_divergences_equal_the_naive_loop(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(300 * np.exp(-np.arange(300) / rng.uniform(20, 90))).astype(np.int64)
    counts[rng.integers(0, 300, 40)] = 0
    np.testing.assert_allclose(entropy_divergences(counts), naive_divergences(counts), rtol=1e-9, atol=1e-12)


def test_entropy_clips_a_lone_outlier_and_keeps_a_uniform_range():
    # kept whole, a level is 16 bins wide and flattens the slope inside it; clipped, one count in 260,000 is misplaced
    outlier = np.zeros(2048, np.int64)
    outlier[:512], outlier[2047] = np.arange(1024, 0, -2), 1
    assert 256 <= entropy_amax(outlier, 1.0) <= 512
    assert entropy_amax(np.full(2048, 1000, np.int64), 1.0) == 2048


def test_of_equal_divergences_the_last_wins():
    counts = np.full(256, 7, np.int64)  # i = 256 loses nothing (2 equal bins a level), nor is anything clipped
    assert entropy_divergences(counts)[-1] == pytest.approx(0, abs=1e-12)
    assert entropy_amax(counts, 0.5) == 128.0


def test_percentile_is_the_upper_edge_of_the_bin_that_reaches_it():
    counts = np.array([50, 40, 9, 0, 1], np.int64)  # cumulative 50, 90, 99, 99, 100 percent
    assert percentile_amax(counts, 0.1, 90.0) == pytest.approx(0.2)
    assert percentile_amax(counts, 0.1, 90.5) == pytest.approx(0.3)
    assert percentile_amax(counts, 0.1, 100.0) == pytest.approx(0.5)


def test_percentile_never_exceeds_the_largest_magnitude():
    assert choose_amax(histogram_of([0.1, 1.0]), PercentileCalibrator(method="percentile", percentile=100.0)) == 1.0


@pytest.mark.parametrize("amax", [40.0, 97.0, 300.0])
def test_squared_errors_equal_rounding_and_clipping_every_bin(amax):
    counts = np.random.default_rng(1).integers(0, 50, 300)
    centres = np.arange(300) + 0.5
    scale = amax / 127
    rounded = np.clip(np.rint(centres / scale), -127, 127) * scale
    assert squared_errors(counts, 1.0, np.array([amax]))[0] == pytest.approx((counts * (rounded - centres) ** 2).sum())


def test_mse_clips_when_clipping_costs_less_than_coarse_steps():
    # a million values spread over [0, 100), one at 10000. Keeping it: step 78.7, error about 1e6 * 78.7**2 / 12 = 5e8.
    # Clipping it at 100: about (9900)**2 = 1e8 and almost no rounding error.
    counts = np.zeros(10001, np.int64)
    counts[:100], counts[10000] = 10000, 1
    assert 90 < mse_amax(counts, 1.0) < 5000
    keep, clip = squared_errors(counts, 1.0, np.array([10001.0, mse_amax(counts, 1.0)]))
    assert clip < keep / 4


@pytest.mark.parametrize("method", AMAX)
def test_a_tensor_that_is_always_zero_has_amax_zero(method):
    assert choose_amax(histogram_of(np.zeros(10)), METHODS[method]) == 0.0


@pytest.mark.parametrize("method", AMAX)
def test_one_constant_value_is_kept(method):
    assert choose_amax(histogram_of(np.full(1000, 0.75)), METHODS[method]) == pytest.approx(0.75, rel=1 / 127)


@pytest.mark.parametrize("method", AMAX)
def test_amax_scales_with_the_data_by_a_power_of_two(method):
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    assert choose_amax(histogram_of(values * 4), METHODS[method]) == 4 * choose_amax(histogram_of(values), METHODS[method])


def test_normal_data_gives_the_textbook_ordering():
    histogram = histogram_of(np.random.default_rng(0).normal(size=200_000))
    found = {method: choose_amax(histogram, cfg) for method, cfg in METHODS.items()}
    assert 3.5 < found["percentile"] < 4.2  # the two-sided 99.99 % point of N(0, 1) is 3.89
    assert 3.0 < found["mse"] <= found["max"] and 2.5 < found["entropy"] <= found["max"] == histogram.amax


def test_entropy_of_thirty_tensors_takes_less_than_two_seconds():
    histogram = histogram_of(np.random.default_rng(0).normal(size=200_000))
    start = time.perf_counter()
    for _ in range(30):
        choose_amax(histogram, METHODS["entropy"])
    assert time.perf_counter() - start < 2.0

"""Choosing `amax`, the largest magnitude kept before clipping, from a histogram of magnitudes.

Every function takes counts (bins,) int64 of |x| in equal bins [i * bin_width, (i + 1) * bin_width) and returns the
upper edge of the last bin kept. `choose_amax` calls one of them and never answers more than the data's own amax.
All work on cumulative sums, so their cost does not depend on how many values were counted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toolchain.quantize.histogram import Histogram
from toolchain.recipe.quantize import Calibrator

LEVELS = 127  # INT8 codes on one side of zero: scale = amax / 127
ENTROPY_LEVELS = 128  # the reference algorithm compares with a 128-level distribution
FIRST_CANDIDATE = 128  # fewer bins than levels cannot lose information
BLOCK = 256  # candidates looked at together
TIE = 1e-12  # divergences closer than this are equal: rounding of sums, not information


def percentile_amax(counts: np.ndarray, bin_width: float, percentile: float) -> float:
    """Upper edge of the first bin by which at least `percentile` percent of the magnitudes are counted."""
    cumulative = np.cumsum(counts)
    if not cumulative[-1]:
        return 0.0
    kept = np.searchsorted(cumulative, percentile / 100.0 * float(cumulative[-1]) * (1 - 1e-15))
    return float((kept + 1) * bin_width)


def entropy_divergences(counts: np.ndarray) -> np.ndarray:
    """KL(P || Q) in nats for every number i of kept bins, i = 128 … bins (TensorRT's INT8 calibration, Migacz 2017).

    P is the histogram with everything from bin i on added to bin i - 1. Q is the unclipped slice of i bins, merged to
    128 levels, each level's mass spread evenly over its non-empty bins. Bin 0 is set to bin 1 first: half of what
    follows a ReLU is zero, and zero is represented exactly whatever amax is. counts: (bins,). Returns (bins - 127,).
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    candidates = np.arange(FIRST_CANDIDATE, len(bins) + 1)
    blocks = np.array_split(candidates, -(-len(candidates) // BLOCK))
    return np.concatenate([_divergences(bins, some) for some in blocks])


def _divergences(bins: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The same for the candidates `kept` (n,): a block of them at a time, as each takes 128 levels' worth of memory."""
    edges = -(-np.arange(ENTROPY_LEVELS + 1) * kept[:, None] // ENTROPY_LEVELS)  # level l starts at bin ceil(l*i/128)
    mass = np.diff(_cumulative(bins)[edges], axis=1)
    spread = np.diff(_cumulative(bins > 0)[edges], axis=1)
    total, inside, last = bins.sum(), mass.sum(axis=1), bins[kept - 1]
    clipped = total - inside
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.where(mass > 0, mass / spread, 1.0) / inside[:, None]  # Q in each non-empty bin of a level
        cross = (mass * np.log(height)).sum(axis=1) + np.where(clipped > 0, clipped * np.log(height[:, -1]), 0.0)
        own = _cumulative(_xlogx(bins))[kept] - _xlogx(last) + _xlogx(last + clipped)
        divergence = (own - cross) / total - np.log(total)
    # where clipped mass falls on an empty bin Q is 0 and P is not; where nothing is kept there is no Q
    return np.where((inside > 0) & ((clipped <= 0) | (last > 0)), divergence, np.inf)


def entropy_amax(counts: np.ndarray, bin_width: float) -> float:
    """The amax that loses the least information; of equal ones the largest."""
    counts = _filled(counts)
    if len(counts) <= FIRST_CANDIDATE:
        return len(counts) * bin_width
    divergence = entropy_divergences(counts)
    if not np.isfinite(divergence).any():
        return len(counts) * bin_width
    return float((FIRST_CANDIDATE + np.flatnonzero(divergence <= divergence.min() + TIE)[-1]) * bin_width)


def squared_errors(counts: np.ndarray, bin_width: float, amax: np.ndarray) -> np.ndarray:
    """Sum of squared rounding and clipping errors for each candidate of `amax` (m,), every bin standing at its centre.

    Code c takes the centres in ((c - 1/2) scale, (c + 1/2) scale], the last code everything above. Returns (m,).
    """
    centres = (np.arange(len(counts)) + 0.5) * bin_width
    moments = [_cumulative(counts * centres**power) for power in (0, 1, 2)]
    scale = amax[:, None] / LEVELS
    values = scale * np.arange(LEVELS + 1)
    upper = np.searchsorted(centres, values + scale / 2, side="right")
    upper[:, -1] = len(counts)
    edges = np.concatenate([np.zeros((len(amax), 1), np.int64), upper], axis=1)
    number, first, second = (np.diff(moment[edges], axis=1) for moment in moments)
    return (second - 2 * values * first + values**2 * number).sum(axis=1)


def mse_amax(counts: np.ndarray, bin_width: float) -> float:
    """The bin edge with the smallest count-weighted squared error; of equal ones the largest."""
    counts = _filled(counts)
    if not len(counts):
        return 0.0
    candidates = np.arange(1, len(counts) + 1) * bin_width
    errors = squared_errors(counts, bin_width, candidates)
    return float(candidates[np.flatnonzero(errors <= errors.min())[-1]])


AMAX: dict[str, Callable[[Histogram, Calibrator], float]] = {
    "max": lambda h, _: h.amax,
    "percentile": lambda h, cfg: percentile_amax(h.counts, h.bin_width, cfg.percentile),  # type: ignore[union-attr]
    "entropy": lambda h, _: entropy_amax(h.counts, h.bin_width),
    "mse": lambda h, _: mse_amax(h.counts, h.bin_width),
}


def choose_amax(histogram: Histogram, cfg: Calibrator) -> float:
    """amax of one tensor by `cfg.method`, at most the largest magnitude seen; 0.0 for a tensor that is always zero."""
    if histogram.amax == 0.0:
        return 0.0
    return min(AMAX[cfg.method](histogram, cfg), histogram.amax)


def _filled(counts: np.ndarray) -> np.ndarray:
    """`counts` up to its last non-empty bin."""
    filled = np.flatnonzero(counts)
    return counts[: filled[-1] + 1] if filled.size else counts[:0]


def _cumulative(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n + 1,): entry i is the sum of the first i values."""
    return np.concatenate([[0], np.cumsum(values)])


def _xlogx(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1.0))

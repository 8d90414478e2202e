"""How accuracy grows with bits: acc(b) = a - A exp(-k (b - 2)), fitted to 2 to 8 bits by least squares.

a is what accuracy tends to, A what two bits lose of it, k how fast that goes away. Float accuracy is no point of the
fit: where it lies above a, more bits of this kind do not reach it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST_BITS, FEWEST_SEEDS = 5, 3
SLOWEST, FASTEST = 0.01, 20.0  # k that is looked for
GRID, REFINED = 400, 60  # values of k tried first, halvings of the best interval


class Fit(NamedTuple):
    """a, amplitude and rmse in points, k per bit. determined: not so where k ran into an end of what is looked for."""

    a: float
    amplitude: float
    k: float
    rmse: float
    determined: bool

    def at(self, bits: float) -> float:
        """Accuracy at so many bits, in percent."""
        return self.a - self.amplitude * math.exp(-self.k * (bits - 2))

    @property
    def bits_for_one_point(self) -> float | None:
        """Bits at which it lies one point below a; 2 where that is so with two already; None: not determined."""
        if not self.determined:
            return None
        return 2 + math.log(self.amplitude) / self.k if self.amplitude > 1 else 2.0


def fit(bits: Sequence[float], accuracy: Sequence[float]) -> Fit:
    """The best law for accuracy in percent at these bits; at least three different ones.

    For a given k the best a and A are a linear problem, so k alone is searched (Golub, Pereyra 1973).
    """
    x, y = np.asarray(bits, np.float64) - 2, np.asarray(accuracy, np.float64)
    tried = np.geomspace(SLOWEST, FASTEST, GRID)
    errors = [_solved(x, y, k)[2] for k in tried]
    best = int(np.argmin(errors))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, GRID - 1)]
    ratio = (math.sqrt(5) - 1) / 2  # golden section
    for _ in range(REFINED):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _solved(x, y, left)[2] <= _solved(x, y, right)[2]:
            high = right
        else:
            low = left
    k = (low + high) / 2
    a, amplitude, squares = _solved(x, y, k)
    return Fit(a, amplitude, float(k), math.sqrt(squares / len(x)), 0 < best < GRID - 1 and amplitude > 0)


def _solved(x: np.ndarray, y: np.ndarray, k: float) -> tuple[float, float, float]:
    """(a, A, sum of squared errors) of the best line over exp(-k x)."""
    falling = np.exp(-k * x)
    centred = falling - falling.mean()
    spread = float(centred @ centred)
    amplitude = -float(centred @ y) / spread if spread > 0 else 0.0
    a = float(y.mean() + amplitude * falling.mean())
    return a, amplitude, float(((y - a + amplitude * falling) ** 2).sum())

"""How accuracy grows with bits: acc(b) = a - A exp(-k (b - 2)), fitted to 2 to 8 bits by least squares.

a is what accuracy tends to, A what two bits lose of it, k how fast that goes away. Float accuracy is no point of the
fit: where it lies above a, more bits of this kind do not reach it.

A fit is a law only where it follows its points and stays below 100 %: `not_a_law`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

FEWEST_BITS, FEWEST_SEEDS = 5, 3
SLOWEST, FASTEST = 0.01, 20.0  # k that is looked for
GRID, REFINED = 400, 60  # values of k tried first, halvings of the best interval
HIGHEST = 100.0  # percent
CLOSE, CLOSE_SHARE, CLOSE_STDS = 1.0, 0.05, 2.0  # RMSE of a law: points, share of what the bits gain, of the seeds' std


class Fit(NamedTuple):
    """a, amplitude and rmse in points, k per bit. edge: the end of what is looked for that k ran into, if any.

    gain: highest minus lowest accuracy of the points, in points.
    """

    a: float
    amplitude: float
    k: float
    rmse: float
    gain: float = 0.0
    edge: Literal["slowest", "fastest"] | None = None

    @property
    def determined(self) -> bool:
        """Whether the points say what all three figures are, and accuracy rises."""
        return self.edge is None and self.amplitude > 0

    def at(self, bits: float) -> float:
        """Accuracy at so many bits, in percent."""
        return self.a - self.amplitude * math.exp(-self.k * (bits - 2))

    @property
    def bits_for_one_point(self) -> float | None:
        """Bits at which it lies one point below a; 2 where that is so with two already; None: not determined."""
        if not self.determined:
            return None
        return 2 + math.log(self.amplitude) / self.k if self.amplitude > 1 else 2.0


def not_a_law(found: Fit, std: float = 0.0) -> str | None:
    """Why a fit is no law of its points, in words; None: it is one. std: of accuracy over the seeds, in points.

    The seeds explain errors of about their own std. Where they do not, an error beside which the curve is still drawn
    well passes: one point, or a twentieth of what the bits gain (a curve that follows the law with noise on some points
    stays below; one of another form, say flat near chance for a bit or two and then rising, errs by a tenth and more).
    """
    if found.amplitude <= 0:
        return "accuracy does not rise with bits"
    if found.edge == "fastest":
        return (f"flat from 3 bits on, at a = {found.a:.2f} %, {found.amplitude:.2f} points above 2 bits; how fast it "
                "rises in between is not seen")
    if found.edge == "slowest":
        return "accuracy rises in a straight line, so where it tends to is not seen"
    close = max(CLOSE, CLOSE_SHARE * found.gain, CLOSE_STDS * std)
    if found.rmse > close:
        return (f"the curve is of another form: the best a - A exp(-k (b - 2)) misses it by {found.rmse:.2f} points "
                f"(RMSE; at most {close:.2f})")
    if found.a > HIGHEST:
        return f"the curve tends to {found.a:.1f} %, above 100, so these bits end before it levels off"
    return None


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
    edge: Literal["slowest", "fastest"] | None = (
        "slowest" if best == 0 else "fastest" if best == GRID - 1 else None)
    return Fit(a, amplitude, float(k), math.sqrt(squares / len(x)), float(np.ptp(y)), edge)


def _solved(x: np.ndarray, y: np.ndarray, k: float) -> tuple[float, float, float]:
    """(a, A, sum of squared errors) of the best line over exp(-k x)."""
    falling = np.exp(-k * x)
    centred = falling - falling.mean()
    spread = float(centred @ centred)
    amplitude = -float(centred @ y) / spread if spread > 0 else 0.0
    a = float(y.mean() + amplitude * falling.mean())
    return a, amplitude, float(((y - a + amplitude * falling) ** 2).sum())

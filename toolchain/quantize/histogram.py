"""A streaming histogram of |x| whose result does not depend on how the values are batched or ordered.

The covered range is a power of two, [0, 2**exponent), in BINS equal bins. A value outside doubles the range as often as
needed, which merges neighbouring bins pairwise: bin i becomes bin i // 2, exactly where the value would have been
counted had the wider range been there from the start (widths are powers of two, so no rounding is involved).
The last range is the smallest that holds amax, so at least BINS / 2 = 2048 bins lie within amax.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BINS = 4096
BINS_LOG2 = 12
SMALLEST_EXPONENT = -100  # keeps 2**(BINS_LOG2 - exponent) inside float32; magnitudes below 2**-112 share bin 0


@dataclass
class Histogram:
    """Counts of |x|, and the exact min and max of x. Memory is constant: 32 KiB."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = SMALLEST_EXPONENT
    min: float = np.inf
    max: float = -np.inf

    @property
    def amax(self) -> float:
        """The largest magnitude counted; 0.0 before any value."""
        return max(abs(self.min), abs(self.max)) if self.min <= self.max else 0.0

    @property
    def bin_width(self) -> float:
        """Bin i counts magnitudes in [i * bin_width, (i + 1) * bin_width)."""
        return 2.0 ** (self.exponent - BINS_LOG2)

    def add(self, values: np.ndarray, counted: np.ndarray | None = None) -> bool:
        """Count `values` (float32, any shape). False, and nothing counted, when one of them is NaN or infinite.

        counted: those of them that are put into bins; None: all. min and max always see all.
        """
        if values.size == 0:
            return True
        smallest, largest = float(values.min()), float(values.max())  # NaN propagates through both
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            return False
        self._cover(max(abs(smallest), abs(largest)))
        self.min, self.max = min(self.min, smallest), max(self.max, largest)
        chosen = values if counted is None else counted
        scaled = np.multiply(chosen, np.float32(2.0 ** (BINS_LOG2 - self.exponent)), dtype=np.float32).ravel()
        bins = np.abs(scaled, out=scaled).astype(np.int32)  # truncation is floor: nothing is negative
        self.counts += np.bincount(bins, minlength=BINS)
        return True

    def _cover(self, amax: float) -> None:
        if amax == 0.0:
            return
        needed = max(int(np.frexp(amax)[1]), SMALLEST_EXPONENT)  # amax < 2**needed, strictly
        while self.exponent < needed:
            if not self.counts[1:].any():  # only zeros and nothing-yet so far: they stay in bin 0 at any width
                self.exponent = needed
                return
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.exponent += 1

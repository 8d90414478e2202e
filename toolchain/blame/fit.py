"""Does a scale fit what it scales? The noise that it makes, beside the noise of the best scale for the same codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.blame.align import Aligned, Grid

SAMPLE = 2**16  # values of one tensor that are looked at; the largest magnitude is that of all
FACTORS = 2.0 ** (np.arange(-16, 13) / 2)  # candidate scales, as multiples of the file's
LIMITS = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}
# above zero_point, of the candidates. On the scale of signed codes, amax / 127, UINT8 codes of a tensor that is never
# negative go on to twice amax, and that is no fault. Where they end at amax or below, as where training or a Clip clips
# (graph/qdq.code_grid), the file's grid is finer than the candidates, so that `misfit` is rather too small.
LARGEST_CODE = 127


@dataclass
class Noise:
    """What rounding one tensor to its grid does: energies (sums of squares) over a sample of its values.

    largest: magnitude of all values. signal: of the values themselves. noise: of the difference; clipped: the part of
    it that values beyond the largest code make. others: the noise that each of FACTORS times the scale would make.
    """

    grid: Grid
    signal: float = 0.0
    noise: float = 0.0
    clipped: float = 0.0
    largest: float = 0.0
    others: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FACTORS)))

    def add(self, values: np.ndarray, most: int) -> None:
        """Take in up to about `most` of `values`, evenly spread."""
        some = values.reshape(-1)
        self.largest = max(self.largest, float(np.abs(some).max(initial=0.0)))
        some = some[:: max(1, -(-some.size // most))].astype(np.float32)
        rounded, beyond = on_grid(some, self.grid)
        squared = (some.astype(np.float64) - rounded) ** 2
        self.signal += float((some.astype(np.float64) ** 2).sum())
        self.noise += float(squared.sum())
        self.clipped += float(squared[beyond].sum())
        for index, factor in enumerate(FACTORS):
            tried, _ = on_grid(some, replace(self.grid, scale=self.grid.scale * factor), LARGEST_CODE)
            self.others[index] += float(((some.astype(np.float64) - tried) ** 2).sum())

    @property
    def misfit(self) -> float:
        """Noise of the file's scale over that of the best one."""
        best = float(self.others.min())
        return 1.0 if self.noise <= 0 else self.noise / max(best, 1e-12 * self.signal, 1e-300)

    @property
    def headroom(self) -> float:
        """Up to where codes reach, over the largest magnitude seen: at most about 1 on the images of the calibration.

        A calibrator never leaves room above the largest value it saw, but other images may stay below it. UINT8 codes
        of a tensor that is never negative reach twice as far as counted here, 255 above zero_point: to twice amax, or
        to amax where training or a Clip clips there, which counts as half.
        """
        reach = self.grid.scale * (448 if self.grid.kind == ir.DataType.FLOAT8E4M3FN else LARGEST_CODE)
        return reach / self.largest if self.largest > 0 else 1.0


def on_grid(values: np.ndarray, grid: Grid, largest: int = 255) -> tuple[np.ndarray, NDArray[np.bool_]]:
    """Values as the pair gives them back, and which of them lie beyond its codes.

    largest: code above zero_point, for integers.
    """
    if grid.kind == ir.DataType.FLOAT8E4M3FN:
        codes = np.clip(values / grid.scale, -448, 448)
        return codes.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * grid.scale, np.abs(values) > 448 * grid.scale
    low, high = LIMITS[grid.kind]
    zero = int(grid.zero_point.reshape(-1)[0])
    high = min(high, zero + largest)
    codes = np.rint(values / np.float32(grid.scale)) + zero
    return (np.clip(codes, low, high) - zero) * np.float32(grid.scale), (codes < low - 0.5) | (codes > high + 0.5)


def weight_times(one: Aligned) -> float:
    """The factor by which a layer's dequantized weights are too large: 1 where their scales fit, 4 at four times them.

    It is the least-squares one, <q, q> / <w, q>; infinite where the two have nothing in common.
    """
    if one.weight is None:
        return 1.0
    quantized, given = one.weight.astype(np.float64), one.float_weight.astype(np.float64)
    energy, common = float((quantized**2).sum()), float((quantized * given).sum())
    if energy == 0:
        return 1.0 if not given.any() else float("inf")
    return energy / common if common > 0 else float("inf")


def relative_error(one: Aligned) -> float:
    """Energy of a layer's weight error over that of the weights; 0 where it stayed float."""
    if one.weight is None:
        return 0.0
    given = float((one.float_weight.astype(np.float64) ** 2).sum())
    return float(((one.weight - one.float_weight).astype(np.float64) ** 2).sum()) / given if given else 0.0

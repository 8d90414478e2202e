"""The values that a layer's weight can take once it is stored by graph/qdq.py or graph/int4.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toolchain.graph.int4 import FEWEST_INPUTS, block_length, int4_codes
from toolchain.graph.layers import Layer
from toolchain.graph.qdq import weight_codes


@dataclass(frozen=True)
class Target:
    """What weights will be stored as. block: weights per INT4 scale. first_last: "float" spares those two layers."""

    precision: Literal["int8", "int4"] = "int8"
    first_last: str = "int8"
    block: int = 32

    def quantized(self, found: Sequence[Layer]) -> list[Layer]:
        """Those of a network's layers, in order, that will be quantized."""
        return list(found[1:-1] if self.first_last == "float" else found)


@dataclass(frozen=True)
class Grid:
    """scale: float32, the weight's shape. Codes lie in low…high; where `pinned`, only the nearest code will do.

    Zeros are pinned: pruning may have put them there.
    """

    scale: np.ndarray
    low: int
    high: int
    pinned: np.ndarray

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        """`weight` rounded to the grid, half to even: float32 values, as the engine will see them."""
        return self.values(np.rint(weight / self.scale))

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Codes (any number type) -> float32 weights."""
        return np.clip(codes, self.low, self.high).astype(np.float32) * self.scale


def weight_grid(layer: Layer, target: Target, amax: np.ndarray | None = None) -> Grid:
    """The grid that `layer` gets. amax: INT8 per output channel (None: its largest |w|).

    INT4 scales are read off the stored weight again when it is converted, so the largest weight of a block, which made
    the scale, must keep its code: it is pinned.
    """
    weight = layer.array
    small = weight.size // weight.shape[layer.axis] < FEWEST_INPUTS
    if target.precision == "int8" or small:
        given = amax.tolist() if amax is not None and target.precision == "int8" else None
        _, scale = weight_codes(weight, given, layer.axis, np.float32)
        full = np.broadcast_to(scale.reshape([-1 if i == layer.axis else 1 for i in range(weight.ndim)]), weight.shape)
        pinned = _largest(weight, layer.axis) if target.precision == "int4" else False
        return Grid(full, -127, 127, (weight == 0) | pinned)
    rows = weight.reshape(len(weight), -1) if layer.axis == 0 else weight.T
    length = block_length(rows.shape[1], target.block)
    _, scale = int4_codes(rows, length, np.float32)
    blocks = np.abs(rows.reshape(len(rows), -1, length))
    largest = (blocks == blocks.max(axis=2, keepdims=True)).reshape(rows.shape)
    full, pinned = np.repeat(scale, length, axis=1), largest | (rows == 0)
    if layer.axis == 0:
        return Grid(full.reshape(weight.shape), -8, 7, pinned.reshape(weight.shape))
    return Grid(full.T, -8, 7, pinned.T)


def _largest(weight: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    magnitude = np.abs(weight)
    return magnitude == magnitude.max(axis=others, keepdims=True)

"""GPFQ, greedy path-following quantization, of one layer (Zhang, Zhou, Saab 2022, arXiv:2201.11113).

A neuron's weights are rounded one after the other, each so that the layer's output error so far, U = X W^T - X~ Q^T
over the columns done, is answered by the next column: a = <U + w_t x_t, x~_t> / |x~_t|^2, q_t = the level nearest to a.
X (m, d) are the layer's inputs in the float network, X~ those in the network quantized up to here.

Only inner products enter, so columns are done in blocks with matrix products, and where m is large U is never held: the
products X^T X~ and X~^T X~ (d, d), added up over the data, tell the same. Groups of a convolution are a leading axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolchain.quantize.packed import code_values
from toolchain.recipe.schema import Gpfq

SMALLEST_SCALE = 1e-7  # below it an FP16 scale would be 0
BLOCK = 64  # columns between two updates of the error by a matrix product
PART_VALUES = 8_000_000  # float64 values of U held at once: 64 MB; the neurons are taken in parts
ROWS_PER_FEATURE = 2  # up to here the rows (2 m d float32) take no more memory than the products (2 d d float64)


@dataclass(frozen=True)
class Alphabet:
    """Codes -largest … largest and what is done before rounding.

    soft: L1, the value shrinks by it. hard: L0, values up to it become 0, and the levels begin there:
    sign(c) * (hard + scale * (|c| - 1)). Both in units of the weights.
    """

    largest: int
    soft: float | None = None
    hard: float | None = None

    @staticmethod
    def of(cfg: Gpfq) -> Alphabet:
        """The alphabet that a recipe asks for."""
        return Alphabet(cfg.largest_code, *((cfg.sparse.l1, cfg.sparse.l0) if cfg.sparse else ()))

    @property
    def levels(self) -> int:
        """Number of different values."""
        return 2 * self.largest + 1

    def codes(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Nearest codes, a half rounded up (floor(v + 1/2)); `scale` broadcasts. int16, the shape of `values`."""
        shrink = self.soft if self.hard is None else self.hard
        shrunk = values if shrink is None else np.sign(values) * np.maximum(np.abs(values) - shrink, 0)
        steps = np.floor(shrunk / scale + 0.5)
        if self.hard is None:
            return np.clip(steps, -self.largest, self.largest).astype(np.int16)
        magnitude = np.minimum(np.abs(steps), self.largest - 1) + 1
        return np.where(np.abs(values) > self.hard, np.sign(values) * magnitude, 0).astype(np.int16)

    def values(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """What the codes stand for."""
        return code_values(codes, scale, self.hard)


def scales(rows: np.ndarray, alphabet: Alphabet, cfg: Gpfq) -> np.ndarray:
    """Step of the alphabet for each neuron, float32 (N,): scalar * radius / steps on one side of zero.

    rows: (N, d). The radius is the quantile `cfg.percentile` of a neuron's |w|, or the mean of all of them (`layer`).
    A radius of 0 gives 1. Raises ValueError when an L0 threshold leaves no room for levels.
    """
    radius = np.quantile(np.abs(rows).astype(np.float64), cfg.percentile, axis=1)
    if cfg.radius == "layer":
        radius = np.full(len(rows), radius.mean())
    reach, steps = cfg.scalar * radius, alphabet.largest
    if alphabet.hard is not None:
        reach, steps = reach - alphabet.hard, alphabet.largest - 1
        if (reach[radius > 0] <= 0).any():
            raise ValueError(f"quantize.sparse.l0 is {alphabet.hard:g}, but its largest level would be "
                             f"{cfg.scalar * radius[radius > 0].min():.2g}; use a smaller threshold")
    return np.where(radius > 0, np.maximum(reach / steps, SMALLEST_SCALE), 1.0).astype(np.float32)


class Inputs:
    """What GPFQ has to know of a layer's inputs: the rows themselves while they are few, else their products.

    weights: (g, n, d), the layer's neurons in g groups. rows: how many rows will be added at most.
    """

    def __init__(self, weights: np.ndarray, rows: int) -> None:
        self.weights, self.energy, self.seen = weights, 0.0, 0  # energy: |X W^T|^2
        groups, _, features = weights.shape
        self.keeps_rows = rows <= ROWS_PER_FEATURE * features
        if self.keeps_rows:
            self.x, self.quantized = (np.zeros((groups, rows, features), np.float32) for _ in range(2))
        else:
            self.cross, self.own = (np.zeros((groups, features, features)) for _ in range(2))

    def add(self, x: np.ndarray, quantized: np.ndarray) -> None:
        """Rows of X and X~, float32 (g, rows, d)."""
        self.energy += float(np.square(x.astype(np.float64) @ _t(self.weights)).sum())
        rows = slice(self.seen, self.seen + x.shape[1])
        self.seen = rows.stop
        if self.keeps_rows:
            self.x[:, rows], self.quantized[:, rows] = x, quantized
            return
        exact = quantized.astype(np.float64)
        self.cross += _t(x).astype(np.float64) @ exact
        self.own += _t(exact) @ exact

    @property
    def silent(self) -> bool:
        """Nothing but zeros arrives in the quantized network."""
        return not (self.quantized if self.keeps_rows else self.own).any()

    def relative_error(self, values: np.ndarray) -> float:
        """|X W^T - X~ Q^T|_F / |X W^T|_F for Q = values (g, n, d); 0.0 where there is no output."""
        if not self.energy:
            return 0.0
        squared = 0.0
        for part in _parts(self):
            w, q = self.weights[:, part].astype(np.float64), values[:, part].astype(np.float64)
            if self.keeps_rows:
                squared += float(np.square(w @ _t(self.x) - q @ _t(self.quantized)).sum())
            else:
                squared += float(np.sum(q @ self.own * q) - 2 * np.sum(w @ self.cross * q))
        squared += 0.0 if self.keeps_rows else self.energy
        return float(np.sqrt(max(squared, 0.0) / self.energy))


def gpfq(inputs: Inputs, scale: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Codes int16 (g, n, d) of the neurons in `inputs.weights`; scale: (g, n). A column of zeros gets code 0."""
    codes = np.zeros(inputs.weights.shape, np.int16)
    for part in _parts(inputs):
        codes[:, part] = _neurons(inputs, part, scale[:, part].astype(np.float64), alphabet)
    return codes


def _neurons(inputs: Inputs, part: slice, scale: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Codes of some neurons, block of columns after block."""
    weights = inputs.weights[:, part].astype(np.float64)
    codes, values = np.zeros(weights.shape, np.int16), np.zeros(weights.shape)
    error = np.zeros((*weights.shape[:2], inputs.seen)) if inputs.keeps_rows else None
    for start in range(0, weights.shape[2], BLOCK):
        block = slice(start, start + BLOCK)
        if error is not None:
            x, quantized = (a[:, : inputs.seen, block].astype(np.float64) for a in (inputs.x, inputs.quantized))
            cross, own, products = _t(x) @ quantized, _t(quantized) @ quantized, error @ quantized
        else:
            cross, own = inputs.cross[:, block, block], inputs.own[:, block, block]
            products = weights[:, :, :start] @ inputs.cross[:, :start, block]
            products -= values[:, :, :start] @ inputs.own[:, :start, block]
        products += weights[:, :, block] @ np.triu(cross)
        codes[:, :, block] = _block(products, own, scale, alphabet)
        values[:, :, block] = alphabet.values(codes[:, :, block], scale[:, :, None])
        if error is not None:
            error += weights[:, :, block] @ _t(x) - values[:, :, block] @ _t(quantized)
    return codes


def _block(products: np.ndarray, own: np.ndarray, scale: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Codes (g, n, B) of one block, column by column.

    products: <U before the block + sum of w_s x_s up to column t, x~_t>, changed in place. own: X~^T X~ (g, B, B).
    """
    codes = np.zeros(products.shape, np.int16)
    for t in range(products.shape[2]):
        norm = own[:, t, t][:, None]
        wanted = np.divide(products[:, :, t], norm, out=np.zeros(products.shape[:2]), where=norm > 0)
        codes[:, :, t] = alphabet.codes(wanted, scale)
        value = alphabet.values(codes[:, :, t], scale)
        products[:, :, t + 1 :] -= value[:, :, None] * own[:, t, None, t + 1 :]
    return codes


def _parts(inputs: Inputs) -> list[slice]:
    """Neurons (of every group) whose U, or weights, are held at once."""
    groups, neurons, features = inputs.weights.shape
    size = max(1, PART_VALUES // (groups * max(features, inputs.seen if inputs.keeps_rows else 0)))
    return [slice(i, i + size) for i in range(0, neurons, size)]


def _t(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(1, 2)

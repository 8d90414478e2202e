"""Random crop, mirror and colours on whole uint8 batches; the draws belong to an epoch, not to a process or a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.data.jitter import scaled_factors
from toolchain.recipe.schema import Augment


@dataclass(frozen=True, eq=False)
class Draws:
    """One epoch's chance, for every position in its order: n images.

    order: int64 (n,) which image stands there. top, left: int64 (n,) corner of the crop in the padded image.
    mirror: bool (n,). jitter: float32 (n, 4), see `scaled_factors`; None where colours stay.
    """

    order: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirror: NDArray[np.bool_]
    jitter: NDArray[np.float32] | None = None


def draw_epoch(count: int, augment: Augment, seed: int, epoch: int) -> Draws:
    """Order and augmentation of one epoch over `count` images, the same however many processes share it."""
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = random.permutation(count)
    corners = random.integers(0, 2 * augment.crop_padding + 1, size=(2, count))
    mirror = random.random(count) < 0.5 if augment.flip else np.zeros(count, bool)
    jitter = scaled_factors(random.random((count, 4)), augment.jitter) if augment.jitter else None
    return Draws(order, corners[0], corners[1], mirror, jitter)


def augmented(
    images: NDArray[np.uint8], top: NDArray[np.int64], left: NDArray[np.int64], mirror: NDArray[np.bool_], padding: int
) -> NDArray[np.uint8]:
    """Pad with black, crop back at (top, left), mirror left-right: uint8 (n, S, S, 3) -> the same shape.

    top, left: (n,) in 0..2 * padding; `padding` is the centre, which changes nothing. mirror: bool (n,).
    """
    count, size = images.shape[:2]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0))) if padding else images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))  # (n, rows, cols, 3, S, S)
    cropped = windows[np.arange(count), top, left].transpose(0, 2, 3, 1)
    result = np.ascontiguousarray(cropped)
    result[mirror] = result[mirror][:, :, ::-1]
    return result


def is_fixed_view(augment: Augment) -> bool:
    """Whether every epoch shows a training image with the same pixels."""
    return not augment.crop_padding and not augment.flip and augment.jitter is None

"""Colour jitter on whole uint8 batches, in numpy: brightness, contrast, saturation, hue, always in this order.

The four adjustments are Pillow's ImageEnhance and torchvision's ColorJitter, whose random order is fixed here, so that
one row of factors is one outcome. They are computed in float32 and rounded once, at the end, so a result may differ by
a grey level or two from those that round after each of the four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolchain.recipe.data import Jitter

if TYPE_CHECKING:
    from toolchain.data.dataset import Split
    from toolchain.data.preprocess import Preprocess

Plane = NDArray[np.float32]
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, Pillow's conversion to grey


def scaled_factors(uniform: NDArray[np.float64], cfg: Jitter) -> NDArray[np.float32]:
    """Factors from numbers in [0, 1): (n, 4) -> float32 (n, 4).

    Columns: brightness, contrast and saturation, each in [max(0, 1 - x), 1 + x] (1 changes nothing), and hue in
    [-hue, hue] turns (0 changes nothing).
    """
    spread = np.array([cfg.brightness, cfg.contrast, cfg.saturation])
    low, high = np.append(np.maximum(0, 1 - spread), -cfg.hue), np.append(1 + spread, cfg.hue)
    return (low + (high - low) * uniform).astype(np.float32)


def draw_jitter(count: int, cfg: Jitter, seed: int) -> NDArray[np.float32]:
    """One frozen realisation: float32 (count, 4), see `scaled_factors`; row i belongs to image i.

    The rows depend on nothing but the seed and cfg, on every machine: RandomState's stream is frozen (NEP 19).
    """
    return scaled_factors(np.random.RandomState(seed).random_sample((count, 4)), cfg)


def jittered(images: NDArray[np.uint8], factors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (N, S, S, 3) with colours changed by `factors` (N, 4) -> the same shape; each image by itself."""
    factors = np.asarray(factors, np.float32)
    brightness, contrast, saturation = (column[:, None, None] for column in factors.T[:3])
    planes = [images[..., channel] * brightness for channel in range(3)]  # uint8 * float32 = float32
    planes = [np.minimum(plane, 255) for plane in planes]
    # greys are rounded, as Pillow does, so that their sum is exact: the same alone and in any batch
    total = np.rint(_grey(planes)).sum(axis=(1, 2), dtype=np.float64)
    mean = (total / (images.shape[1] * images.shape[2])).astype(np.float32)
    planes = _blended(planes, mean[:, None, None], contrast)
    planes = _blended(planes, _grey(planes), saturation)
    turned = np.flatnonzero(factors[:, 3])  # a hue of 0 costs nothing and changes nothing
    for plane, shifted in zip(planes, _hue_shifted([p[turned] for p in planes], factors[turned, 3]), strict=True):
        plane[turned] = shifted
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)


def jittered_batches(
    split: Split, preprocess: Preprocess, batch_size: int, cfg: Jitter, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The split in order, under one frozen realisation: (images float32 (n, 3, S, S) normalised, labels int64 (n,)).

    The pixels depend on cfg and seed alone: identical for every model and every batch size.
    """
    from toolchain.data.dataset import in_order

    factors, chunks = draw_jitter(len(split), cfg, seed), in_order(len(split), batch_size)
    for indices, images in zip(chunks, split.image_batches(chunks), strict=True):
        yield preprocess.normalize(jittered(images, factors[indices])), split.labels[indices]


def _grey(planes: list[Plane]) -> Plane:
    red, green, blue = (plane * np.float32(weight) for plane, weight in zip(planes, LUMA, strict=True))
    return red + green + blue


def _blended(planes: list[Plane], other: Plane, factor: Plane) -> list[Plane]:
    """factor * plane + (1 - factor) * other, clipped to 0..255."""
    rest = (1 - factor) * other
    return [(factor * plane + rest).clip(0, 255) for plane in planes]


def _hue_shifted(planes: list[Plane], hue: NDArray[np.float32]) -> list[Plane]:
    """Turn the colour circle of HSV by `hue` (n,) turns; planes: red, green, blue (n, S, S) in 0..255.

    Back to RGB by channel = V - C * clip(min(k, 4 - k), 0, 1) with k = (offset + 6 H) mod 6, offsets 5, 3, 1; chroma
    C = V * S = max - min. Grey has C = 0 and stays.
    """
    red, green, blue = planes
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(chroma == 0, np.float32(1), chroma)
    sixth = np.where(value == red, (green - blue) / divisor, np.where(
        value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor))  # 6 H
    sixth += 6 * hue[:, None, None]
    result = []
    for offset in (5, 3, 1):
        k = np.mod(offset + sixth, 6)
        result.append(value - chroma * np.minimum(k, 4 - k).clip(0, 1))
    return result

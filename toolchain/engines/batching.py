"""Any number of images through an engine that takes only certain batch sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from toolchain.engines.protocol import Images, Logits
from toolchain.errors import EngineError


def in_batches(run: Callable[[Images], Logits], images: Images, batches: tuple[int, int | None]) -> Logits:
    """Logits (N, K) of images (N, C, H, W): chunks of at most `batches[1]`; a chunk below `batches[0]` is padded
    with its last image, and the padding's logits are dropped."""
    smallest, largest = batches
    size = largest or max(len(images), smallest)
    chunks = [images[i : i + size] for i in range(0, len(images), size)]
    return np.concatenate([run(pad(chunk, smallest))[: len(chunk)] for chunk in chunks])


def pad(images: Images, size: int) -> Images:
    """`images` (N, C, H, W) with its last image repeated until there are at least `size`."""
    lacking = size - len(images)
    return np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)]) if lacking > 0 else images


def check_batch(name: str, images: Images, batches: tuple[int, int | None]) -> None:
    """Raise EngineError when one run of the engine `name` cannot take this batch."""
    smallest, largest = batches
    if len(images) < smallest or (largest is not None and len(images) > largest):
        raise EngineError(f"{name}: found batch {len(images)}, expected {smallest} to {largest}; "
                          "change measure.batch or the engine's batch profile")


def check_input(name: str, images: Images, input_shape: tuple[int, ...]) -> None:
    """Raise EngineError when images (N, C, H, W) do not have the engine's channels, height and width."""
    fits = images.ndim == len(input_shape)
    if not fits or any(want not in (-1, found) for want, found in zip(input_shape[1:], images.shape[1:], strict=True)):
        raise EngineError(f"{name}: found images of shape {images.shape}, expected {input_shape} (-1: any); "
                          "set data.image_size to what the network takes")

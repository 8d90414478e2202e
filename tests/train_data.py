"""A tiny real Dataset for the tests of training: three classes of coloured 8x8 squares with noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from toolchain.data.preprocess import Preprocess
from toolchain.recipe.schema import Augment

SIZE = 8


@dataclass(frozen=True)
class Memory:
    """A Split whose images are given."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    in_memory: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices):
        return self.pixels[np.asarray(indices)]

    def image_batches(self, batches, workers=None):
        yield from (self.pixels[indices] for indices in batches)


@dataclass(frozen=True)
class Squares:
    """A Dataset of coloured squares."""

    train: Memory
    val: Memory
    test: Memory
    name: str = "squares"
    classes: tuple[str, ...] = ("red", "green", "blue")
    preprocess: Preprocess = Preprocess(SIZE, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    split_sha256: str = "0" * 64
    augment: Augment = Augment(crop_padding=1, flip=True)


def squares(images: int = 96, noise: int = 60) -> Squares:
    """`images` for train and half as many for val and test; label = the brighter colour channel."""
    return Squares(_split(images, noise, 1), _split(images // 2, noise, 2), _split(images // 2, noise, 3))


def small_net(classes: int = 3, dropout: float = 0.2) -> nn.Sequential:
    """Conv, BatchNorm, dropout and a head: everything whose state a checkpoint must hold."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, classes))


def _split(images: int, noise: int, seed: int) -> Memory:
    random = np.random.default_rng(seed)
    labels = np.arange(images, dtype=np.int64) % 3
    pixels = random.integers(100 - noise, 100 + noise, (images, SIZE, SIZE, 3))
    pixels[np.arange(images), :, :, labels] += 25
    return Memory(pixels.clip(0, 255).astype(np.uint8), labels)

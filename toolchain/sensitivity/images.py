"""The images of a scan: a fixed draw from val, on disk so that every process reads the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.data import Dataset
from toolchain.data.preprocess import Preprocess
from toolchain.errors import DataError

IMAGES, LABELS, PREPROCESS = "images.npy", "labels.npy", "preprocess.json"
BATCH = 64  # images that go through a network at a time: the same for all, so that rounding is the same


def draw_images(dataset: Dataset, count: int | None, seed: int, folder: Path) -> None:
    """Write `count` images of val, drawn by `seed` (None or more than there are: all), into `folder`, unless they are.

    Raises DataError when val is empty or cannot be read.
    """
    total = len(dataset.val)
    if total == 0:
        raise DataError("data.val_fraction: leaves no images in val, and a scan needs some; use a larger one")
    if (folder / PREPROCESS).is_file():
        return
    chosen = np.arange(total)
    if count is not None and count < total:
        chosen = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    _save(folder / IMAGES, dataset.val.images(chosen))
    _save(folder / LABELS, dataset.val.labels[chosen])
    dataset.preprocess.save(folder / PREPROCESS)  # last: with it the others are whole


def _save(path: Path, values: NDArray[np.generic]) -> None:
    part = path.with_name(f".{path.name}.npy")
    np.save(part, values)
    part.replace(path)


class Images:
    """The images that `draw_images` left in `folder`, read from there as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.pixels: NDArray[np.uint8] = np.load(folder / IMAGES, mmap_mode="r")
        self.labels: NDArray[np.int64] = np.load(folder / LABELS)
        self.preprocess = Preprocess.load(folder / PREPROCESS)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """float32 (n, 3, S, S), normalised, in order."""
        for start in range(0, len(self.pixels), BATCH):
            yield self.preprocess.normalize(self.pixels[start : start + BATCH])


def clear_images(folder: Path) -> None:
    """Remove what `draw_images` wrote."""
    for name in (IMAGES, LABELS, PREPROCESS):
        (folder / name).unlink(missing_ok=True)

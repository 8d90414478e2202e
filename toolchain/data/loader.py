"""Training and evaluation batches as tensors. The only file of this room that imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolchain.data.augment import Draws, augmented, draw_epoch
from toolchain.data.dataset import Split, in_order
from toolchain.data.jitter import jittered
from toolchain.data.preprocess import Preprocess
from toolchain.errors import DataError
from toolchain.recipe.schema import Augment

SMALLEST_BATCH = 2  # BatchNorm in training mode cannot normalise one value per channel


class Batch(NamedTuple):
    """images: float32 (n, 3, S, S), normalised. labels: int64 (n,). indices: int64 (n,), positions in the split."""

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """One epoch of one process. `len()` is its number of steps, equal on every rank."""

    split: Split
    preprocess: Preprocess
    padding: int
    draws: Draws
    positions: list[np.ndarray]
    workers: int | None

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Batch]:
        draws, chosen = self.draws, [self.draws.order[p] for p in self.positions]
        read = self.split.image_batches(chosen, self.workers)
        for at, indices, images in zip(self.positions, chosen, read, strict=True):
            images = augmented(images, draws.top[at], draws.left[at], draws.mirror[at], self.padding)
            if draws.jitter is not None:
                images = jittered(images, draws.jitter[at])
            yield _batch(self.preprocess.normalize(images), self.split.labels[indices], indices)


def train_batches(
    split: Split, preprocess: Preprocess, augment: Augment, batch_size: int, seed: int, epoch: int, rank: int = 0,
    world_size: int = 1, workers: int | None = None,
) -> TrainBatches:
    """Shuffled, augmented batches of one epoch.

    Order and augmentation depend on (seed, epoch) only. batch_size: images per process and step; the ranks' batches of
    one step lie side by side in the common order. workers: reading threads, None for the recipe's.
    Raises DataError when there are too few images for one step on every rank.
    """
    positions = rank_positions(len(split), batch_size, rank, world_size)
    if not positions:
        raise DataError(f"{split.name}: has {len(split)} images, too few for {world_size} process(es) of at least "
                        f"{SMALLEST_BATCH} images; use more images or fewer processes")
    draws = draw_epoch(len(split), augment, seed, epoch)
    return TrainBatches(split, preprocess, augment.crop_padding, draws, positions, workers)


def rank_positions(count: int, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Positions in an epoch's order that one rank takes, per step.

    The last step shares what is left evenly; up to world_size - 1 images, or a share too small for BatchNorm, sit out
    this epoch.
    """
    step = batch_size * world_size
    positions = [np.arange(start + rank * batch_size, start + (rank + 1) * batch_size)
                 for start in range(0, count - step + 1, step)]
    done = len(positions) * step
    share = (count - done) // world_size
    if share >= min(SMALLEST_BATCH, batch_size):
        positions.append(np.arange(done + rank * share, done + (rank + 1) * share))
    return positions


def eval_batches(split: Split, preprocess: Preprocess, batch_size: int) -> Iterator[Batch]:
    """The split in order, whole, not augmented."""
    chunks = in_order(len(split), batch_size)
    for indices, images in zip(chunks, split.image_batches(chunks), strict=True):
        yield _batch(preprocess.normalize(images), split.labels[indices], indices)


def _batch(images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Batch:
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(indices))

"""The dataset a recipe asks for, split once and for all into train, val and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain import console
from toolchain.data import source_module
from toolchain.data.preprocess import Preprocess
from toolchain.data.source import Loaded, Source
from toolchain.data.split import split_digest, stratified
from toolchain.data.stream import SMALL_PIXELS, read_all, read_batches
from toolchain.errors import DataError
from toolchain.recipe.schema import Augment, DataSection


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one source after geometry: one uint8 array made at first use, or read when asked for."""

    source: Source
    preprocess: Preprocess
    in_memory: bool
    workers: int
    title: str

    def read(self, index: int) -> NDArray[np.uint8]:
        """uint8 (S, S, 3). Raises DataError naming the file or row that cannot be read."""
        return self.preprocess.geometry(self.source.read(index))

    @cached_property
    def array(self) -> NDArray[np.uint8]:
        """uint8 (n, S, S, 3): every image, decoded once."""
        height, width = self.source.read(0).shape[:2]
        workers = self.workers if height * width >= SMALL_PIXELS else 0
        return read_all(self.read, len(self.source), self.preprocess.image_size, workers, self.title)


@dataclass(frozen=True, eq=False)
class Split:
    """Train, val or test: some of the images of one source. labels: int64 (n,)."""

    name: str
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] = field(repr=False)  # position of each image in its source
    store: Images = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether all images live decoded in memory."""
        return self.store.in_memory

    def images(self, indices: NDArray[np.int64] | Sequence[int]) -> NDArray[np.uint8]:
        """uint8 (n, S, S, 3) after geometry. Raises DataError for an image that cannot be read."""
        return next(self.image_batches([np.asarray(indices, np.int64)]))

    def image_batches(
        self, batches: Sequence[NDArray[np.int64]], workers: int | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """The images of each array of indices in turn; sets too large for memory are read ahead by threads."""
        if self.in_memory:
            yield from (self.store.array[self.rows[indices]] for indices in batches)
            return
        rows = (self.rows[indices] for indices in batches)
        yield from read_batches(self.store.read, rows, self.store.workers if workers is None else workers)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What every stage gets. split_sha256 covers the content of the dataset, the indices and the labels."""

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    train: Split
    val: Split
    test: Split
    split_sha256: str
    augment: Augment = Augment(crop_padding=0, flip=False)  # what a training image goes through, never another


def load_dataset(cfg: DataSection, roots: Sequence[Path]) -> Dataset:
    """The dataset of a recipe's data section; images are decoded when first asked for.

    roots: folders in which relative paths are looked up, in order. Raises DataError for files that are missing or
    damaged, labels and classes that do not fit, and splits that would be empty.
    """
    origin = source_module(cfg.source)  # type: ignore[attr-defined]
    loaded = origin.load(cfg, roots)
    mean, std = origin.statistics(cfg)
    preprocess = Preprocess(cfg.image_size, cfg.resize, cfg.mean or mean, cfg.std or std)
    return split_dataset(cfg.source, loaded, preprocess, cfg)  # type: ignore[attr-defined]


def split_dataset(name: str, loaded: Loaded, preprocess: Preprocess, cfg: DataSection) -> Dataset:
    """Hold test (where the source has none) and then val out of train, stratified by class."""
    if loaded.test is not None:
        everything, test_rows = np.arange(len(loaded.train)), np.arange(len(loaded.test))
    else:
        share = cfg.test_fraction  # type: ignore[attr-defined]
        everything, test_rows = stratified(loaded.train.labels, share, cfg.split_seed)
    kept, held = stratified(loaded.train.labels[everything], cfg.val_fraction, cfg.split_seed)
    rows = {"train": everything[kept], "val": everything[held], "test": test_rows}
    empty = [part for part, chosen in rows.items() if len(chosen) == 0]
    if empty:
        raise DataError(f"data: {len(loaded.train)} images leave {' and '.join(empty)} empty; use more images, or "
                        "larger val_fraction and test_fraction")

    named = loaded.train.classes
    for part in ("train", "test"):
        labels = loaded.test.labels if part == "test" and loaded.test is not None else loaded.train.labels
        absent = sorted(set(range(len(named))) - set(labels[rows[part]].tolist()))
        if absent:
            console.log(f"warning: {name}: {len(absent)} of {len(named)} classes have no image in {part}: "
                        f"{', '.join(named[i] for i in absent[:5])}{', …' if len(absent) > 5 else ''}")

    count = len(loaded.train) + (len(loaded.test) if loaded.test is not None else 0)
    fits = count * preprocess.image_size**2 * 3 <= cfg.memory_mb * 2**20
    store = Images(loaded.train, preprocess, fits, cfg.workers, f"decode {name}")
    test_store = store
    if loaded.test is not None:
        test_store = Images(loaded.test, preprocess, fits, cfg.workers, f"decode {name} test")
    stores = {"train": store, "val": store, "test": test_store}
    splits = {part: Split(part, stores[part].source.labels[rows[part]], rows[part], stores[part]) for part in rows}
    sha256 = split_digest({p: (stores[p].source.identity, rows[p], splits[p].labels) for p in rows})
    return Dataset(name, loaded.train.classes, preprocess, splits["train"], splits["val"], splits["test"], sha256,
                   cfg.augment)


def batches(
    split: Split, preprocess: Preprocess, batch_size: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The split in order as (images float32 (n, 3, S, S) normalised, labels int64 (n,)); memory does not grow."""
    chunks = in_order(len(split), batch_size)
    for indices, images in zip(chunks, split.image_batches(chunks), strict=True):
        yield preprocess.normalize(images), split.labels[indices]


def in_order(count: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Indices 0 to count - 1, cut into batches; the last may be smaller."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]

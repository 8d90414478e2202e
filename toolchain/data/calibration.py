"""Which images calibrate: a class-balanced draw from train, or a set on disk; never an image of test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.data.calibration_set import read_calibration_set, write_calibration_set
from toolchain.data.dataset import Dataset, Split, in_order
from toolchain.errors import DataError

__all__ = ["calibration_images", "check_disjoint", "draw_calibration", "read_calibration_set", "write_calibration_set"]

CHUNK = 256


def calibration_images(
    dataset: Dataset, images: int, seed: int, folder: Path | None = None
) -> tuple[NDArray[np.uint8], str]:
    """(uint8 (images, S, S, 3), where they come from): the first of the set in `folder`, or a draw from train.

    Raises DataError when there are fewer than asked for, the set is damaged or was made with another geometry, or an
    image is also in test.
    """
    if folder is None:
        drawn, _ = draw_calibration(dataset, images, seed)
        where = f"{dataset.name} train"
    else:
        drawn, manifest = read_calibration_set(folder, dataset.preprocess)
        where = f"set {folder.name} ({manifest['source']})"
        if len(drawn) < images:
            raise DataError(f"{folder}: holds {len(drawn)} images, but quantize.calibration.images asks for {images}; "
                            f"ask for {len(drawn)} or make a larger set with `toolchain calib`")
        drawn = drawn[:images]
    check_disjoint(drawn, dataset.test)
    return drawn, where


def draw_calibration(
    dataset: Dataset, images: int, seed: int, asked_by: str = "quantize.calibration.images"
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(uint8 (images, S, S, 3), labels int64 (images,)) from train, shuffled, as equal per class as can be.

    An image of train whose pixels also stand in test is passed over. Raises DataError when train has too few, which
    names the field or option `asked_by` that says how many.
    """
    train = dataset.train
    order = balanced_order(train.labels, seed)
    if images <= len(train):
        test = _digests(_chunks(dataset.test))
        chosen: list[NDArray[np.int64]] = []
        found = 0
        while found < images and len(order):
            some, order = order[: images - found], order[images - found :]
            digests = _each_digest(train.images(chunk) for chunk in np.array_split(some, -(-len(some) // CHUNK)))
            kept = some[[digest not in test for digest in digests]]
            chosen.append(kept)
            found += len(kept)
        if found == images:
            rows = np.random.RandomState(seed).permutation(np.concatenate(chosen))
            pixels = [train.images(chunk) for chunk in np.array_split(rows, -(-images // CHUNK))]
            return np.concatenate(pixels), train.labels[rows]
    raise DataError(f"data: train has {len(train)} images that are not in test or val, but {images} are asked for "
                    f"calibration; ask for fewer ({asked_by})")


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All indices, so that any first part holds the classes as evenly as they allow: rounds of one image per class.

    labels: int64 (n,). RandomState is used because its stream is frozen (NEP 19).
    """
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    rounds = np.empty(len(labels), np.int64)
    for name in np.unique(labels):
        rounds[shuffled[labels[shuffled] == name]] = np.arange(np.count_nonzero(labels == name))
    return shuffled[np.argsort(rounds[shuffled], kind="stable")]


def check_disjoint(images: NDArray[np.uint8], test: Split) -> None:
    """Raise DataError if the pixels of any image, uint8 (n, S, S, 3), are also those of a test image."""
    ours = _digests([images])
    for start, chunk in enumerate(_chunks(test)):
        for offset, digest in enumerate(_each_digest([chunk])):
            if digest in ours:
                raise DataError(f"calibration: one of the {len(images)} images is test image {start * CHUNK + offset}, "
                                "so measured accuracy would be too good; draw calibration images from train only")


def shared_images(one: Split, other: Split) -> int:
    """How many images of `other` have the pixels of an image of `one`; both are decoded once."""
    known = _digests(_chunks(one))
    return sum(digest in known for digest in _each_digest(_chunks(other)))


def _chunks(split: Split) -> Iterator[NDArray[np.uint8]]:
    return split.image_batches(in_order(len(split), CHUNK))


def _each_digest(batches: Iterable[NDArray[np.uint8]]) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for batch in batches for image in batch]


def _digests(batches: Iterable[NDArray[np.uint8]]) -> set[bytes]:
    return set(_each_digest(batches))

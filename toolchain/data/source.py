"""What every dataset source delivers: labels, class names, and a way to read one image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import DataError


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images as they lie on disk.

    read: index -> uint8 (H, W, 3) of any size; raises DataError naming the file or row; safe to call from threads.
    labels: int64 (n,). identity: SHA-256 of the content, the same on every machine.
    """

    read: Callable[[int], NDArray[np.uint8]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    identity: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a source file returns: train (val is held out of it), and test where the dataset comes with one."""

    train: Source
    test: Source | None


def check_source(source: Source, place: str) -> Source:
    """The same source, if a classifier can be trained or tested on it.

    place: file or folder for the message. Raises DataError for no images, fewer than two classes, or a label outside
    the class names.
    """
    classes = len(source.classes)
    if len(source) == 0:
        raise DataError(f"{place}: holds no images; expected at least one per class")
    if classes < 2:
        raise DataError(f"{place}: has {classes} class ({', '.join(source.classes)}); a classifier needs at least 2")
    outside = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if len(outside):
        row = int(outside[0])
        raise DataError(f"{place}: row {row} has label {source.labels[row]}, but there are {classes} class names "
                        f"(labels 0 to {classes - 1}); {len(outside)} rows in all: mend the labels or the names")
    return source


def find(path: str, roots: Sequence[Path], field: str) -> Path:
    """An existing file or folder named by the recipe: absolute, or the first match under `roots`.

    field: the recipe's key, for the message. Raises DataError listing where it looked.
    """
    places = [Path(path)] if Path(path).is_absolute() else [Path(root) / path for root in roots]
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(str(place.parent) for place in places)
    raise DataError(f"{field}: '{path}' is not in {looked}; put it there, or say where it is with --data-root DIR "
                    "or $TOOLCHAIN_DATA")


def digest(*parts: bytes | str) -> str:
    """SHA-256 over length-prefixed parts, so that no two lists of parts collide. 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "little") + raw)
    return total.hexdigest()

"""ImageFolder layout: <folder>/<class>/…/image.jpg; the class names are the sub-folders' names in sorted order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolchain.data.image import decode
from toolchain.data.source import Loaded, Source, check_source, digest, find
from toolchain.errors import DataError, nearest
from toolchain.recipe.schema import Folder

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect

Triple = tuple[float, float, float]


def load(cfg: Folder, roots: Sequence[Path]) -> Loaded:
    """Train, and test where the recipe names a folder for it. Raises DataError for missing folders, empty classes."""
    place = find(cfg.train, roots, "data.train")
    train = read(place, class_names(place))
    if cfg.test is None:
        return Loaded(train, None)
    test_place = find(cfg.test, roots, "data.test")
    for name in class_names(test_place):
        if name not in train.classes:
            raise DataError(f"{test_place / name}: train has no class '{name}'{nearest(name, train.classes)}; test may "
                            "only hold classes that train has")
    return Loaded(train, read(test_place, train.classes))


def fingerprint(cfg: Folder, roots: Sequence[Path]) -> str:
    """Names, sizes and modification times of all images; none is opened. Raises DataError when a folder is missing."""
    places = [find(cfg.train, roots, "data.train")] + ([find(cfg.test, roots, "data.test")] if cfg.test else [])
    parts = []
    for place in places:
        for name in class_names(place):
            parts += [f"{path.relative_to(place)} {path.stat().st_size} {path.stat().st_mtime_ns}"
                      for path in image_files(place / name)]
        parts.append("--")
    return digest("folder", *parts)


def statistics(cfg: Folder) -> tuple[Triple, Triple]:
    """Default mean and std per channel, on images scaled to [0, 1]."""
    return MEAN, STD


def read(place: Path, classes: Sequence[str]) -> Source:
    """The images below `place`/<class>, class by class. Its identity is names and sizes, not times."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = image_files(place / name) if (place / name).is_dir() else []
        files += found
        labels += [label] * len(found)
    identity = digest("folder", *(f"{path.relative_to(place).as_posix()} {path.stat().st_size}" for path in files))
    source = Source(lambda index: decode(files[index], str(files[index])), np.array(labels, np.int64), tuple(classes),
                    identity)
    return check_source(source, str(place))


def class_names(place: Path) -> tuple[str, ...]:
    """Sub-folders of `place`, sorted. Raises DataError when there is none, or when one holds no image."""
    if not place.is_dir():
        raise DataError(f"{place}: is a file; expected a folder with one sub-folder per class")
    names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{place}: has no sub-folders; expected one per class, each with images")
    for name in names:
        if not image_files(place / name):
            raise DataError(f"{place / name}: holds no images ({', '.join(EXTENSIONS)}); add some, or remove it")
    return tuple(names)


def image_files(place: Path) -> list[Path]:
    """Image files at any depth below `place`, sorted by path; hidden ones are left out."""
    found = []
    for folder, names, files in os.walk(place, followlinks=True):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(folder, name) for name in files
                  if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return sorted(found)

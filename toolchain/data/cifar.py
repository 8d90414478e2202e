"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in torchvision's folder layout, or downloaded where a network exists.

The originals are Python pickles. They are opened once, by torchvision, after it has compared them with their known
MD5; what is read ever after is `cifar10.npz` beside them: plain arrays, without torch.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.console import log
from toolchain.data.source import Loaded, Source, check_source, digest
from toolchain.errors import DataError
from toolchain.recipe.schema import Cifar10, Cifar100

# name -> torchvision's folder, MD5 of the published archive
ORIGINALS = {
    "cifar10": ("cifar-10-batches-py", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("cifar-100-python", "eb9058c3a382ffc7106e4002c42a8d85"),
}
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the reference KD recipes use them for both sets
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")

Triple = tuple[float, float, float]
Arrays = dict[str, NDArray]


def load(cfg: Cifar10 | Cifar100, roots: Sequence[Path]) -> Loaded:
    """Train (50,000) and test (10,000), 32x32.

    Looks under each root for <name>.npz and for torchvision's folder, else downloads into the first root.
    Raises DataError when the set is not there and cannot be downloaded, or is damaged.
    """
    arrays = _arrays(cfg.source, roots)
    classes = tuple(str(name) for name in arrays["classes"])
    parts = []
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64)
        if images.shape != (len(labels), 32, 32, 3) or images.dtype != np.uint8:
            raise DataError(f"{cfg.source} {part}: found {images.dtype} images of shape {images.shape} for "
                            f"{len(labels)} labels, expected uint8 (n, 32, 32, 3); delete {cfg.source}.npz")
        identity = digest(cfg.source, part, images.tobytes(), labels.astype("<i8").tobytes())
        parts.append(check_source(Source(images.__getitem__, labels, classes, identity), f"{cfg.source} {part}"))
    return Loaded(*parts)


def fingerprint(cfg: Cifar10 | Cifar100, roots: Sequence[Path]) -> str:
    """The published archive's MD5 identifies the set, present or still to be downloaded."""
    return digest(cfg.source, ORIGINALS[cfg.source][1])


def statistics(cfg: Cifar10 | Cifar100) -> tuple[Triple, Triple]:
    """Default mean and std per channel, on images scaled to [0, 1]."""
    return MEAN, STD


def to_download(cfg: Cifar10 | Cifar100, roots: Sequence[Path]) -> Path | None:
    """The first root, where the set lies under none."""
    here = (f"{cfg.source}.npz", ORIGINALS[cfg.source][0])
    return None if any((root / name).exists() for root in roots for name in here) else roots[0]


def _arrays(name: str, roots: Sequence[Path]) -> Arrays:
    folder = ORIGINALS[name][0]
    for root in roots:
        if (root / f"{name}.npz").is_file():
            return _read(root / f"{name}.npz")
        if (root / folder).is_dir():
            return _convert(name, root, download=False)
    log(f"{name}: not in {', '.join(map(str, roots))}; downloading it into {roots[0]}")
    return _convert(name, roots[0], download=True)


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is damaged ({error}); delete it, and it is made again from torchvision's files"
                        ) from None


def _convert(name: str, root: Path, download: bool) -> Arrays:
    """Open the originals once through torchvision and keep them as plain arrays beside the originals."""
    from torchvision import datasets  # brings torch, so only here

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        with redirect_stdout(io.StringIO()):
            train, test = kind(root, train=True, download=download), kind(root, train=False)
    except (OSError, RuntimeError, EOFError) as error:
        how = (f"there is no {name}.npz or {ORIGINALS[name][0]}/, and downloading it failed" if download
               else f"{ORIGINALS[name][0]}/ is incomplete or damaged")
        raise DataError(f"data.source {name}: in {root} {how} ({error}); put torchvision's {ORIGINALS[name][0]}/ into "
                        "a folder and name that folder with --data-root DIR or $TOOLCHAIN_DATA") from error
    arrays: Arrays = {"classes": np.array(train.classes)}
    for part, opened in (("train", train), ("test", test)):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = opened.data, np.array(opened.targets, np.int64)
    _keep(root / f"{name}.npz", arrays)
    return arrays


def _keep(path: Path, arrays: Arrays) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError:  # a read-only data folder: the originals are opened again next time
        temporary.unlink(missing_ok=True)

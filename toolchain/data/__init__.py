"""Datasets: where images and labels come from, the fixed split, and the preprocessing the target repeats.

One file per source; each offers `load`, `fingerprint` and `statistics`. This module stays light:
numpy, Pillow, pyarrow and scikit-learn load with the source that is chosen, and torch only with `data.loader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.recipe.schema import DataSection

if TYPE_CHECKING:
    from toolchain.data.dataset import Dataset, Split, batches, load_dataset

__all__ = ["SOURCES", "Dataset", "Split", "batches", "fingerprint", "load_dataset", "source_module", "to_download"]

SOURCES = {
    "digits": "toolchain.data.digits",
    "cifar10": "toolchain.data.cifar",
    "cifar100": "toolchain.data.cifar",
    "parquet": "toolchain.data.parquet",
    "folder": "toolchain.data.folder",
}


def source_module(name: str) -> Any:
    """The module of one dataset source, imported when first asked for."""
    return import_module(SOURCES[name])


def fingerprint(cfg: DataSection, roots: Sequence[Path]) -> str:
    """Cheap identity of the dataset's content for cache keys: 64 hex digits, no image is decoded.

    roots: folders in which relative paths are looked up, in order. Raises DataError when a file is missing.
    """
    return source_module(cfg.source).fingerprint(cfg, roots)  # type: ignore[attr-defined]


def to_download(cfg: DataSection, roots: Sequence[Path]) -> Path | None:
    """The folder that a build will download this dataset into; None where it is on disk, or never comes by itself."""
    find = getattr(source_module(cfg.source), "to_download", None)  # type: ignore[attr-defined]
    return find(cfg, roots) if find else None


def __getattr__(name: str) -> Any:
    """`Dataset`, `Split`, `batches` and `load_dataset` bring numpy and Pillow, so they load when first used."""
    if name in ("Dataset", "Split", "batches", "load_dataset"):
        return getattr(import_module("toolchain.data.dataset"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

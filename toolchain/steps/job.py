"""What every step of one build is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from toolchain.files import write_text
from toolchain.recipe.load import locate
from toolchain.recipe.schema import Data, Recipe, TorchModel
from toolchain.workdir import Stage, WorkDir

if TYPE_CHECKING:
    from toolchain.data import Dataset

TRAINING_PACKAGES = ("torch", "accelerate")
# whose code decides what a training run gives
TRAINING_ROOMS = ("train.py", "optimizer.py", "checkpoint.py", "models", "data")
PROBE_IMAGES = 16  # real images (probe.npy) on which each ONNX file is compared with the one it was made from
ONNX_PACKAGES = ("onnx", "onnx-ir", "onnxscript")
ORT_PACKAGES = ("onnxruntime-gpu", "onnxruntime")  # what runs ONNX files, to compare them, whatever the engine is


@dataclass(frozen=True)
class Job:
    """One build under way.

    base: folder that the recipe's relative paths start from. roots: where datasets are looked up. imports: files with
    the user's own networks. dataset: loads the data when first called. data: the stage that records its split.
    """

    recipe: Recipe
    work: WorkDir
    base: Path
    roots: Sequence[Path]
    imports: Sequence[Path]
    dataset: Callable[[], Dataset]
    data: Stage


def open_job(
    recipe: Recipe, work: WorkDir, base: Path, roots: Sequence[Path], imports: Sequence[Path], name: str = "data"
) -> Job:
    """A build of `recipe` after its first stage, the data. Raises DataError when the data is missing or damaged."""
    from toolchain.data import fingerprint

    content = fingerprint(recipe.data, roots)

    def dataset() -> Dataset:
        return _loaded(recipe.data, tuple(roots), content)

    def make(folder: Path) -> str:
        import numpy as np

        loaded = dataset()
        loaded.preprocess.save(folder / "preprocess.json")
        facts = {"name": loaded.name, "classes": list(loaded.classes), "split_sha256": loaded.split_sha256,
                 "train": len(loaded.train), "val": len(loaded.val), "test": len(loaded.test)}
        write_text(folder / "data.json", json.dumps(facts, indent=1))
        probe = loaded.val.images(np.arange(min(PROBE_IMAGES, len(loaded.val))))
        np.save(folder / "probe.npy", loaded.preprocess.normalize(probe))
        return f"{loaded.name}: {len(loaded.train)} train, {len(loaded.val)} val, {len(loaded.test)} test"

    section = [plain(recipe.data, "workers", "memory_mb"), content]
    data = work.stage(name, make, section=section, rooms=["data"], packages=["numpy", "pillow"])
    return Job(recipe, work, base, roots, imports, dataset, data)


@lru_cache(maxsize=2)  # a teacher's data and its student's; the builds of one study share what is decoded
def _loaded(section: Data, roots: tuple[Path, ...], content: str) -> Dataset:
    from toolchain.data import load_dataset

    return load_dataset(section, roots)


def located(model: TorchModel, base: Path) -> TorchModel:
    """The same section with the file of model.weights, if it names one, as a path that exists. Raises RecipeError."""
    if model.weights in (None, "torchvision"):
        return model
    return model.model_copy(update={"weights": str(locate(str(model.weights), base, "model.weights"))})


def plain(section: BaseModel, *left_out: str) -> dict[str, Any]:
    """A section as JSON-able data, without the fields that cannot change the result."""
    return section.model_dump(mode="json", exclude=set(left_out))

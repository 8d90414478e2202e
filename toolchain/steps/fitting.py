"""One training run inside a stage: the loss it is given, and the history it leaves beside the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.files import write_text
from toolchain.recipe.schema import Train
from toolchain.workdir import rank

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset

# (network, training section, folder) -> the loss of that run, for as long as it lasts; None: fit's own, from the labels
Lesson = Callable[["nn.Module", Train, Path], AbstractContextManager[Any]]


def from_labels(network: nn.Module, cfg: Train, folder: Path) -> AbstractContextManager[None]:
    """The lesson without a teacher."""
    return nullcontext()


def fitted(model: nn.Module, dataset: Dataset, cfg: Train, folder: Path, seed: int, loss: Any, title: str) -> str:
    """Train in place, keep the history beside the model, and say how it went."""
    from toolchain.train import fit

    history = fit(model, dataset, cfg, folder=folder, seed=seed, loss=loss, title=title)
    if rank() == 0:
        keep_history(folder, history)
    return f"{len(history)} epochs, val top-1 {val_top1(model, dataset, cfg, history):.2f} %"


def val_top1(model: nn.Module, dataset: Dataset, cfg: Train, history: list[dict[str, Any]]) -> float:
    """Percent of the epoch whose weights `fit` left in `model`, or of `model` as it is where nothing was trained."""
    from toolchain.checkpoint import best_epoch
    from toolchain.train import evaluate

    if not history:
        return evaluate(model, dataset.val, dataset.preprocess, cfg.batch_size)
    return history[best_epoch(history) - 1 if cfg.early_stopping else -1]["val_top1"]


def keep_history(folder: Path, history: Any) -> None:
    """Write history.json and remove the checkpoints: the finished model stands beside it."""
    write_text(folder / "history.json", json.dumps(history, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)

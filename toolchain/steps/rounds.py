"""Pruning in rounds that each go on where they were stopped: a finished one stands in round_<n>/ until all are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.steps.fitting import keep_history
from toolchain.workdir import rank

if TYPE_CHECKING:
    from torch import nn

Epochs = list[dict[str, Any]]
# (network, its history, number, folder, title) -> the network after that round, its history and epochs
Round = Callable[["nn.Module", dict[str, Any], int, Path, str], tuple["nn.Module", dict[str, Any], Epochs]]


def in_rounds(
    model: nn.Module, architecture: dict[str, Any], folder: Path, count: int, one: Round, series: Sequence[str],
    epochs: Epochs | None = None,
) -> None:
    """Prune `model` in `count` rounds and leave the last one, its history and its epochs in `folder`.

    architecture: as stored beside the student. one: does a round; `series` are the facts of its history that are kept
    for each round. epochs: of training before. Every rank goes on from what it has in memory: only rank 0 writes.
    """
    from toolchain.models.store import load_architecture, load_model, save_model

    history: dict[str, Any] = {"rounds": []}
    epochs = list(epochs or [])
    for number in range(1, count + 1):
        place, title = folder / f"round_{number}", f"prune: round {number} of {count}"
        if (place / "history.json").is_file():  # it is written last
            console.log(f"  {title} was finished before")
            model, history = load_model(place), load_architecture(place)["pruned"]
            trained = json.loads((place / "history.json").read_text(encoding="utf-8"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            model, facts, trained = one(model, history, number, place, title)
            record = {"round": number, "epochs": len(trained), **{key: facts[key] for key in series}}
            history = {**facts, "rounds": [*history["rounds"], record]}
            if rank() == 0:
                save_model(place, model, {**architecture, "pruned": history})
                keep_history(place, trained)
        epochs += [{**epoch, "epoch": len(epochs) + at, "round": number} for at, epoch in enumerate(trained, start=1)]
    if rank() == 0:
        save_model(folder, model, {**architecture, "pruned": history})
        if (place / "taught.json").is_file():
            shutil.copyfile(place / "taught.json", folder / "taught.json")
        keep_history(folder, epochs)

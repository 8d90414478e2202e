"""Unstructured pruning and the training that follows it, in rounds that each go on where they were stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.recipe.prune import Lottery, Magnitude, Sparse24
from toolchain.recipe.schema import TorchModel
from toolchain.steps.fitting import Lesson, val_top1
from toolchain.steps.job import Job, located
from toolchain.steps.rounds import in_rounds
from toolchain.steps.teaching import TWINS_APART
from toolchain.workdir import Stage, rank

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data.loader import Batch
    from toolchain.prune.amounts import Curves
    from toolchain.train import Loss, Progress, Step

SERIES = ("sparsity_prunable", "sparsity_all", "val_top1")  # of each round, kept in the history
REINITIALISED = 100  # the student's twins after this one serve as re-initialisations; those before, as mutual's peers


def pruned_in_rounds(
    job: Job, cfg: Magnitude | Lottery | Sparse24, student: Stage, taught: Lesson, folder: Path,
    scan: Stage | None = None,
) -> str:
    """Rounds of zeroing and training. A finished one stands in round_<n>/ until the whole is written."""
    if not (folder / "history.json").is_file():  # else only the clearing away was interrupted
        _all_rounds(job, cfg, student, taught, folder, scan)
    if rank() != 0:
        return ""  # only rank 0 writes
    for leftover in (*folder.glob("round_*"), folder / "rewind"):
        shutil.rmtree(leftover, ignore_errors=True)
    done = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))["pruned"]
    return (f"{len(done['rounds'])} round{'s' * (len(done['rounds']) > 1)}, {100 * done['sparsity_prunable']:.2f} % of "
            f"the weights are zero, val top-1 {done['rounds'][-1]['val_top1']:.2f} %")


def _all_rounds(
    job: Job, cfg: Magnitude | Lottery | Sparse24, student: Stage, taught: Lesson, folder: Path, scan: Stage | None
) -> None:
    from toolchain.models.store import load_architecture, load_model
    from toolchain.sensitivity.file import read_sensitivity

    curves = read_sensitivity(scan.folder / "sensitivity.json", "weights").curves() if scan else None
    start = _beginning(job, cfg, student, taught, folder / "rewind") if isinstance(cfg, Lottery) else None

    def one(model: nn.Module, _: dict[str, Any], number: int, place: Path, title: str) -> Any:
        return _round(job, cfg, model, number, start, taught, place, title, curves)

    network, architecture = load_model(student.folder), load_architecture(student.folder)
    in_rounds(network, architecture, folder, getattr(cfg, "rounds", 1), one, SERIES)


def _round(
    job: Job, cfg: Magnitude | Lottery | Sparse24, model: nn.Module, number: int, start: nn.Module | None,
    taught: Lesson, place: Path, title: str, curves: Curves | None,
) -> tuple[nn.Module, dict[str, Any], list[dict[str, Any]]]:
    """One round: zero weights, go back to `start` if there is one, train. Gives network, facts and epochs."""
    import torch

    from toolchain.prune import prune
    from toolchain.prune.lottery import rewind
    from toolchain.prune.zeros import sparsity, zeros_kept
    from toolchain.train import fit

    data = job.dataset()
    train, seed = (job.recipe.train, job.recipe.seed) if isinstance(cfg, Lottery) else (
        cfg.finetune, job.recipe.seed + number)
    sparse, facts = prune(model, cfg, job.recipe.data.image_size, number=number, seed=job.recipe.seed + number,
                          curves=curves)
    if isinstance(cfg, Lottery) and cfg.control == "reinit":
        start = _initialised(job, REINITIALISED + number, weights=False)
    if start is not None:
        rewind(sparse, start)
    torch.manual_seed(seed)  # a loss may have weights of its own
    with taught(sparse, train, place) as loss, zeros_kept(sparse):
        trained = fit(sparse, data, train, folder=place, seed=seed, loss=loss, title=title)
    facts = {**facts, **sparsity(sparse), "val_top1": val_top1(sparse, data, train, trained)}
    console.log(f"  {title}: {100 * facts['sparsity_prunable']:.2f} % of the weights are zero, val top-1 "
                f"{facts['val_top1']:.2f} %")
    return sparse, facts, trained


def _beginning(job: Job, cfg: Lottery, student: Stage, taught: Lesson, place: Path) -> nn.Module | None:
    """What the rounds go back to: the student as it was initialised, or after `cfg.rewind_epoch` epochs of training."""
    if cfg.rewind == "learning_rate" or cfg.control == "reinit":
        return None
    record = student.folder / "taught.json"  # of mutual's peers the best one became the student
    peer = json.loads(record.read_text(encoding="utf-8")).get("best", 0) if record.is_file() else 0
    network = _initialised(job, peer)
    epochs = min(1, job.recipe.train.epochs) if cfg.rewind_epoch is None else cfg.rewind_epoch
    if epochs:
        _train_until(epochs, network, job, taught, place)
    return network


def _initialised(job: Job, number: int, weights: bool = True) -> nn.Module:
    """The n-th twin of the student, made as the train stage makes it, which leaves torch's generator in the same state.

    weights: with the ones that model.weights names.
    """
    import torch

    from toolchain.models import create_model

    model = job.recipe.model
    assert isinstance(model, TorchModel)
    model = located(model, job.base) if weights else model.model_copy(update={"weights": None})
    torch.manual_seed(job.recipe.seed + TWINS_APART * number)
    return create_model(model, len(job.dataset().classes), job.recipe.data.image_size)


class _Reached(Exception):
    """The epoch to which weights are rewound is done."""


def _train_until(epochs: int, network: nn.Module, job: Job, taught: Lesson, place: Path) -> None:
    """Repeat the student's training, whose schedule is longer, and leave it when `epochs` epochs are done."""
    from torch import nn

    from toolchain.train import fit, label_loss

    def look(progress: Progress) -> None:
        if progress.epoch >= epochs:
            raise _Reached

    def watched(loss: Loss) -> Loss:
        if isinstance(loss, nn.Module):  # it stays itself: its weights are trained beside the network's
            loss.register_forward_pre_hook(lambda _, given: look(given[2]))
            return loss

        def step(model: nn.Module, batch: Batch, progress: Progress) -> Step:
            look(progress)
            return loss(model, batch, progress)

        return step

    place.mkdir(parents=True, exist_ok=True)
    cfg, seed = job.recipe.train, job.recipe.seed
    try:
        with taught(network, cfg, place) as loss:
            fit(network, job.dataset(), cfg, folder=place, seed=seed, loss=watched(loss or label_loss(cfg)),
                title="prune: to the epoch of rewinding")
    except _Reached:
        network.zero_grad(set_to_none=True)
        network.cpu().eval()

"""Structured channel pruning: sparse training if asked for, then rounds of removal and fine-tuning."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.recipe.prune import Channels, GroupLasso
from toolchain.steps.fitting import Lesson, keep_history, val_top1
from toolchain.steps.job import Job
from toolchain.steps.rounds import Epochs, in_rounds
from toolchain.steps.saliency_images import saliency_batches
from toolchain.workdir import Stage, rank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from toolchain.data.loader import Batch
    from toolchain.prune.channels import Whole
    from toolchain.train import Loss, Progress, Step

SERIES = ("val_top1", "parameters", "macs")  # of each round, kept in the history


def pruned_by_channels(job: Job, cfg: Channels, student: Stage, taught: Lesson, folder: Path) -> str:
    """The student with fewer channels, fine-tuned, in `folder`. Raises TrainError."""
    if not (folder / "history.json").is_file():  # else only the clearing away was interrupted
        _all_rounds(job, cfg, student, taught, folder)
    if rank() != 0:
        return ""  # only rank 0 writes
    for leftover in (*folder.glob("round_*"), folder / "group_lasso"):
        shutil.rmtree(leftover, ignore_errors=True)
    last = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))["pruned"]["rounds"][-1]
    return (f"{last['round']} round{'s' * (last['round'] > 1)}, {last['parameters']} parameters, {last['macs']} "
            f"multiply-accumulates, val top-1 {last['val_top1']:.2f} %")


def _all_rounds(job: Job, cfg: Channels, student: Stage, taught: Lesson, folder: Path) -> None:
    from toolchain.models.store import load_architecture, load_model
    from toolchain.prune.channels import measure_whole, prune_channels

    network, size = load_model(student.folder), job.recipe.data.image_size
    whole = measure_whole(network, size)
    epochs: Epochs = []
    if cfg.group_lasso:
        # a share that cannot be reached costs no training
        prune_channels(network, cfg.model_copy(update={"saliency": "random"}), size, whole=whole)
        network, epochs = _sparse(job, cfg.group_lasso, network, taught, folder / "group_lasso", student)
    one = partial(_round, job, cfg, whole, taught)
    in_rounds(network, load_architecture(student.folder), folder, cfg.rounds, one, SERIES, epochs)


def _round(
    job: Job, cfg: Channels, whole: Whole, taught: Lesson, model: nn.Module, before: dict[str, Any], number: int,
    place: Path, title: str,
) -> tuple[nn.Module, dict[str, Any], Epochs]:
    """Remove channels and train. The history's steps are those of all rounds, to be repeated in order."""
    import torch

    from toolchain.prune.channels import prune_channels
    from toolchain.prune.cost import cost
    from toolchain.train import fit

    data, size, seed = job.dataset(), job.recipe.data.image_size, job.recipe.seed + number
    smaller, history = prune_channels(model, cfg, size, number=number, whole=whole, seed=seed,
                                      batches=saliency_batches(job, cfg.saliency))
    torch.manual_seed(seed)  # a loss may have weights of its own
    with taught(smaller, cfg.finetune, place) as loss:
        trained = fit(smaller, data, cfg.finetune, folder=place, seed=seed, loss=loss, title=title)
    left = cost(smaller, size)
    facts = {"method": cfg.method, **history, "steps": [*before.get("steps", []), *history["steps"]],
             "parameters": left.parameters, "macs": left.macs,
             "val_top1": val_top1(smaller, data, cfg.finetune, trained)}
    console.log(f"  {title}: {100 * left.parameters / whole.cost.parameters:.1f} % of the parameters and "
                f"{100 * left.macs / whole.cost.macs:.1f} % of the multiply-accumulates left, val top-1 "
                f"{facts['val_top1']:.2f} %")
    return smaller, facts, trained


def _sparse(
    job: Job, cfg: GroupLasso, network: nn.Module, taught: Lesson, place: Path, student: Stage
) -> tuple[nn.Module, Epochs]:
    """Train `network` with the penalty on its channels, and store it in `place` until the rounds are done."""
    from toolchain.models.store import load_architecture, load_model, save_model
    from toolchain.train import fit, label_loss

    if (place / "history.json").is_file():
        console.log("  prune: the training with group lasso was finished before")
        network, trained = load_model(place), json.loads((place / "history.json").read_text(encoding="utf-8"))
    else:
        place.mkdir(parents=True, exist_ok=True)
        with taught(network, cfg.train, place) as loss, _penalised(
                loss or label_loss(cfg.train), cfg.weight, network, job.recipe.data.image_size) as sparse:
            trained = fit(network, job.dataset(), cfg.train, folder=place, seed=job.recipe.seed, loss=sparse,
                          title="prune: group lasso")
        if rank() == 0:
            save_model(place, network, load_architecture(student.folder))
            keep_history(place, trained)
    return network, [{**epoch, "round": 0} for epoch in trained]


@contextmanager
def _penalised(loss: Loss, weight: float, network: nn.Module, image_size: int) -> Iterator[Loss]:
    """The same loss with the penalty on the channels of `network` added to it."""
    import copy

    from torch import nn

    from toolchain.prune.group_lasso import group_penalty
    from toolchain.prune.groups import trace
    from toolchain.train import Step

    penalty = group_penalty(trace(copy.deepcopy(network), image_size), network)

    def add(step: Step) -> Step:
        pressed = weight * penalty()
        return Step(step.loss + pressed, step.logits, {**step.parts, "group_lasso": pressed.detach()})

    if isinstance(loss, nn.Module):  # it stays itself: its weights are trained beside the network's
        hook = loss.register_forward_hook(lambda module, given, step: add(step))
        yield loss
        hook.remove()
        return

    def step(model: nn.Module, batch: Batch, progress: Progress) -> Step:
        return add(loss(model, batch, progress))

    yield step

"""Latency-driven pruning: channels go where the engine gets faster; the unpruned network teaches what is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.recipe.distill import Mutual, SoftTargets, TeacherCheckpoint
from toolchain.recipe.prune import Latency, SelfDistill
from toolchain.recipe.schema import Train
from toolchain.steps.fitting import Lesson, keep_history, val_top1
from toolchain.steps.job import Job
from toolchain.workdir import Stage, rank

if TYPE_CHECKING:
    from torch import nn


def pruned_by_latency(job: Job, cfg: Latency, student: Stage, taught: Lesson, folder: Path, choice: Stage) -> str:
    """The student without the units that `choice` removes, fine-tuned, in `folder`. Raises TrainError."""
    import torch

    from toolchain.models.store import load_architecture, load_model, save_model
    from toolchain.prune.cost import cost
    from toolchain.prune.groups import remove
    from toolchain.train import fit

    found = json.loads((choice.folder / "choice.json").read_text(encoding="utf-8"))
    size, seed, data = job.recipe.data.image_size, job.recipe.seed + 1, job.dataset()
    unpruned = load_model(student.folder)
    model, steps = remove(unpruned, size, found["removed"])
    left = cost(model, size)
    torch.manual_seed(seed)
    with lesson_of(job, cfg, unpruned, taught)(model, cfg.finetune, folder) as loss:
        epochs = fit(model, data, cfg.finetune, folder=folder, seed=seed, loss=loss, title="prune: fine-tune")
    record = {"round": 1, "epochs": len(epochs), "val_top1": val_top1(model, data, cfg.finetune, epochs),
              "parameters": left.parameters, "macs": left.macs}
    history = {"method": "latency", "image_size": size, "steps": steps, "latency": found["latency"], "rounds": [record]}
    if rank() == 0:
        save_model(folder, model, {**load_architecture(student.folder), "pruned": history})
        keep_history(folder, epochs)
    latency = found["latency"]
    return (f"{latency['unpruned_ms']:.3f} -> {latency['pruned_ms']:.3f} ms on {latency['engine']}, {len(epochs)} "
            f"epochs, val top-1 {record['val_top1']:.2f} %")


def lesson_of(job: Job, cfg: Latency, unpruned: nn.Module, taught: Lesson) -> Lesson:
    """Who teaches after pruning: the recipe's own teacher, else the unpruned network, `taught` where neither does."""
    own = job.recipe.distill is not None and not isinstance(job.recipe.distill, Mutual)
    if own or cfg.self_distill is None:
        return taught
    return partial(self_taught, job, cfg.self_distill, unpruned)


@contextmanager
def self_taught(
    job: Job, cfg: SelfDistill, unpruned: nn.Module, network: nn.Module, train: Train, folder: Path
) -> Iterator[Any]:
    """The loss of soft targets (Hinton et al. 2015) with the unpruned network as the teacher."""
    from toolchain.distill.objective import Setting
    from toolchain.distill.soft_targets import soft_targets

    section = SoftTargets(method="soft_targets", temperature=cfg.temperature, ce_weight=cfg.ce_weight,
                          kd_weight=cfg.kd_weight, teacher=TeacherCheckpoint(checkpoint="the unpruned network"))
    frozen = unpruned.eval().requires_grad_(False)
    yield soft_targets(section, Setting(network, frozen, job.dataset(), train, lambda _: network, folder))
    if rank() == 0:
        shutil.rmtree(folder / "teacher_outputs", ignore_errors=True)

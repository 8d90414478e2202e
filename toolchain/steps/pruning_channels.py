"""Structured channel pruning and the fine-tuning that follows it."""

from __future__ import annotations

from pathlib import Path

from toolchain.recipe.prune import Channels
from toolchain.steps.fitting import Lesson, fitted
from toolchain.steps.job import Job
from toolchain.workdir import Stage, rank


def pruned_by_channels(job: Job, cfg: Channels, student: Stage, taught: Lesson, folder: Path) -> str:
    """The student with fewer channels, fine-tuned, in `folder`. Raises TrainError."""
    from toolchain.models.store import load_architecture, load_model, save_model
    from toolchain.prune import prune

    model, history = prune(load_model(student.folder), cfg, job.recipe.data.image_size)
    with taught(model, cfg.finetune, folder) as loss:
        summary = fitted(model, job.dataset(), cfg.finetune, folder, job.recipe.seed + 1, loss, "prune: fine-tune")
    if rank() == 0:
        save_model(folder, model, {**load_architecture(student.folder), "pruned": history})
    return summary

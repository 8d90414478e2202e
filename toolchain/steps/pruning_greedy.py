"""Greedy allocation by sensitivity, and the fine-tuning that follows it."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain import console
from toolchain.recipe.prune import Greedy
from toolchain.steps.fitting import Lesson, fitted, val_top1
from toolchain.steps.job import Job
from toolchain.steps.saliency_images import saliency_batches
from toolchain.workdir import Stage, rank


def pruned_by_greedy(job: Job, cfg: Greedy, student: Stage, taught: Lesson, folder: Path, scan: Stage) -> str:
    """The student with `cfg.params` fewer parameters, fine-tuned, in `folder`. scan: of its channels.

    Raises TrainError when the target cannot be met, RecipeError for the scan of another network.
    """
    from toolchain.models.store import load_architecture, load_model, save_model
    from toolchain.prune.cost import cost
    from toolchain.prune.greedy import prune_greedy
    from toolchain.sensitivity.file import read_sensitivity

    size, seed, data = job.recipe.data.image_size, job.recipe.seed + 1, job.dataset()
    student_model = load_model(student.folder)
    curves = read_sensitivity(scan.folder / "sensitivity.json", "channels").curves()
    model, history = prune_greedy(student_model, cfg, size, curves, saliency_batches(job, cfg.saliency), seed)
    was, now = cost(student_model, size), cost(model, size)
    console.log(f"  prune: {was.parameters:,} to {now.parameters:,} parameters, {was.macs:,} to {now.macs:,} "
                "multiply-accumulates")
    with taught(model, cfg.finetune, folder) as loss:
        summary = fitted(model, data, cfg.finetune, folder, seed, loss, "prune: fine-tune")
    if rank() == 0:
        trained = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        record = {"round": 1, "epochs": len(trained), "val_top1": val_top1(model, data, cfg.finetune, trained),
                  "parameters": now.parameters, "macs": now.macs}
        save_model(folder, model, {**load_architecture(student.folder), "pruned": {**history, "rounds": [record]}})
    return f"{100 * (1 - now.parameters / was.parameters):.1f} % of the parameters gone, {summary}"

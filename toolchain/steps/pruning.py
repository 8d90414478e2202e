"""The prune stage: which file prunes by which method, and what decides its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from toolchain.engines import backend
from toolchain.recipe.prune import Greedy, Latency, LowRank, Magnitude, Prune
from toolchain.steps.fitting import Lesson
from toolchain.steps.job import ONNX_PACKAGES, TRAINING_PACKAGES, TRAINING_ROOMS, Job, plain
from toolchain.steps.timing import clock, conditions
from toolchain.workdir import Stage

# method -> (file, function); each writes the pruned network into its folder and returns the line that is logged
STEPS = {
    "channels": ("pruning_channels", "pruned_by_channels"),
    "greedy": ("pruning_greedy", "pruned_by_greedy"),
    "latency": ("pruning_latency", "pruned_by_latency"),
    "low_rank": ("pruning_low_rank", "pruned_by_low_rank"),
    **dict.fromkeys(("magnitude", "lottery", "sparse24"), ("pruning_rounds", "pruned_in_rounds")),
}
MEASURING_ROOMS = ("engines", "measure", "export.py", "graph", "steps/timing.py")  # where it times engines itself


def pruned(
    job: Job, student: Stage, taught: Lesson, teachers: Sequence[Stage] = (), section: Sequence[Any] = ()
) -> Stage:
    """The student after pruning as job.recipe.prune says and the training after it; the student where it says nothing.

    taught: the lesson of every training run here. teachers, section: what it depends on. Raises TrainError.
    """
    cfg, size, seed = job.recipe.prune, job.recipe.data.image_size, job.recipe.seed + 1
    if cfg is None:
        return student
    before = _before(job, cfg, student)

    def make(folder: Path) -> str:
        file, name = STEPS[cfg.method]
        step: Callable[..., str] = getattr(import_module(f"toolchain.steps.{file}"), name)
        return step(job, cfg, student, taught, folder, **before)

    return job.work.stage(
        "prune", make, section=[plain(cfg), seed, size, section, _conditions(job, cfg)],
        inputs=[student, job.data, *teachers, *before.values()], rooms=_rooms(cfg, "scan" in before),
        packages=["torch-pruning", *TRAINING_PACKAGES, *_measuring_packages(cfg)], distributed=True)


def _before(job: Job, cfg: Prune, student: Stage) -> dict[str, Stage]:
    """The stage that `cfg` decides by, if it needs one, by the name of the step's argument."""
    if isinstance(cfg, Greedy) or (isinstance(cfg, Magnitude) and cfg.scope == "sensitivity"):
        from toolchain.steps.scanning import scanned

        return {"scan": scanned(job, student, "channels" if isinstance(cfg, Greedy) else "weights", cfg.scan)}
    if isinstance(cfg, Latency):
        from toolchain.steps.latency_choice import latency_choice

        return {"choice": latency_choice(job, cfg, student)}
    return {}


def _conditions(job: Job, cfg: Prune) -> list[Any]:
    """What layers were timed under, where the method itself times them."""
    if not isinstance(cfg, LowRank) or cfg.engine is None:
        return []
    return [conditions(clock(job.recipe, cfg.engine)), plain(job.recipe.export)]


def _rooms(cfg: Prune, scan: bool) -> list[str]:
    files = ["steps/pruning.py", "steps/rounds.py", "steps/saliency_images.py", f"steps/{STEPS[cfg.method][0]}.py"]
    return ["prune", "distill", *files, *TRAINING_ROOMS, *(["sensitivity/file.py"] if scan else []),
            *(MEASURING_ROOMS if isinstance(cfg, LowRank) else [])]


def _measuring_packages(cfg: Prune) -> list[str]:
    if not isinstance(cfg, LowRank) or cfg.engine is None:
        return []
    return [*ONNX_PACKAGES, *backend(cfg.engine.runtime).PACKAGES]

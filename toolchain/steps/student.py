"""The PyTorch side of a build: training or distillation, pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolchain.files import sha256_file
from toolchain.recipe.distill import Mutual
from toolchain.recipe.schema import TorchModel, Train
from toolchain.steps.fitting import Lesson, fitted, from_labels
from toolchain.steps.job import TRAINING_PACKAGES, TRAINING_ROOMS, Job, located, plain
from toolchain.steps.pruning import pruned
from toolchain.steps.pruning_check import check_pruning
from toolchain.steps.teachers import Teacher, teacher_of
from toolchain.steps.teaching import check_lesson, check_views, lesson
from toolchain.workdir import Stage, rank


def teacher(job: Job) -> Teacher | None:
    """The teacher of job.recipe, trained or taken from a file; None where nothing asks for one."""
    def train(name: str, own: Job, model: TorchModel, cfg: Train) -> Stage:
        def look() -> None:
            check_lesson(job, model)
            check_pruning(job)

        return _train(name, own, model, cfg, from_labels, before=look)

    return teacher_of(job, train)


def float_student(job: Job, teacher: Teacher | None) -> Stage:
    """The float student: trained or distilled, then pruned if the recipe says so."""
    recipe, distill = job.recipe, job.recipe.distill
    assert isinstance(recipe.model, TorchModel)

    def look() -> None:
        check_pruning(job)
        if teacher and recipe.measure.fidelity:
            check_views(job, teacher.load(job))

    if distill is None:
        student = _train("train", job, recipe.model, recipe.train, from_labels, before=look)
        return pruned(job, student, from_labels)
    who = teacher if hasattr(distill, "teacher") else None  # measure.fidelity's is only compared
    taught = partial(lesson, job, who)
    inputs = [who.stage, who.data] if who else []
    section = [plain(distill, "teacher", "teacher_cache_mb"), [who.mean, who.std] if who else None]
    student = _train("train", job, recipe.model, recipe.train, taught, inputs, section, look)
    if isinstance(distill, Mutual):  # the peers are as wide as the student was, so a pruned one learns from the labels
        return pruned(job, student, from_labels)
    return pruned(job, student, taught, inputs, section)


def _train(
    name: str, job: Job, model: TorchModel, cfg: Train, taught: Lesson, teachers: Sequence[Stage] = (),
    section: Sequence[Any] = (), before: Callable[[], None] = lambda: None,
) -> Stage:
    seed, digests = job.recipe.seed, [sha256_file(path) for path in job.imports]
    model = located(model, job.base)
    if model.weights and model.weights != "torchvision":
        digests.append(sha256_file(Path(model.weights)))

    def make(folder: Path) -> str:
        import torch

        from toolchain.models import create_model
        from toolchain.models.store import save_model

        before()
        torch.manual_seed(seed)
        classes = len(job.dataset().classes)
        network = create_model(model, classes, job.recipe.data.image_size)
        with taught(network, cfg, folder) as loss:
            summary = fitted(network, job.dataset(), cfg, folder, seed, loss, name)
        if rank() == 0:
            built = model.model_copy(update={"weights": None}).model_dump(mode="json")
            save_model(folder, network, {"model": built, "num_classes": classes, "pruned": None, "folded": False})
        return summary

    downloaded = model.weights == "torchvision"
    return job.work.stage(
        name, make, section=[plain(model, "weights"), downloaded, plain(cfg), seed, digests, section],
        inputs=[job.data, *teachers], rooms=["distill", *TRAINING_ROOMS],
        packages=["torchvision", *TRAINING_PACKAGES], distributed=True)

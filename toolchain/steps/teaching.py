"""What a teacher does: the loss it makes for one training run, and whether it can be made at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.errors import TrainError
from toolchain.files import write_text
from toolchain.recipe.distill import Mutual
from toolchain.recipe.schema import (
    TorchModel,
    Train,
)
from toolchain.steps.job import Job, located
from toolchain.steps.teachers import Teacher
from toolchain.workdir import rank

if TYPE_CHECKING:
    from torch import nn

    from toolchain.train import Loss

TWINS_APART = 1_000_003


@contextmanager
def lesson(job: Job, teacher: Teacher | None, student: nn.Module, cfg: Train, folder: Path) -> Iterator[Loss]:
    """The loss for training `student` in the block; afterwards the teacher's weights are proven unchanged.

    Of peers that taught each other the best one on val is then in `student`. Raises TrainError.
    """
    from toolchain.checkpoint import state_sha256
    from toolchain.distill import distillation_loss
    from toolchain.distill.objective import Setting

    distill = job.recipe.distill
    assert distill is not None
    network = teacher.load(job) if teacher else None
    before = state_sha256(network) if network else None
    setting = Setting(student, network, job.dataset(), cfg, partial(fresh_student, job), folder)
    loss = distillation_loss(distill, setting)
    yield loss
    if network and state_sha256(network) != before:
        raise TrainError("distill: the teacher's weights changed while it taught; this is a bug, please report it")
    taught: dict[str, Any] = {"method": distill.method, "teacher_sha256": before}
    if isinstance(distill, Mutual):
        from toolchain.distill.mutual import best_peer
        from toolchain.train import evaluate

        data = job.dataset()
        taught |= best_peer(student, loss, lambda peer: evaluate(peer, data.val, data.preprocess, cfg.batch_size))
        console.log(f"  peers: val top-1 {', '.join(f'{top1:.2f}' for top1 in taught['peers_val_top1'])} %, mean "
                    f"{taught['mean']:.2f} %; the best one is kept")
    if rank() == 0:
        write_text(folder / "taught.json", json.dumps(taught, indent=1))
        shutil.rmtree(folder / "teacher_outputs", ignore_errors=True)


def check_lesson(job: Job, teacher: TorchModel) -> None:
    """Try the method on untrained networks: a wrong layer then costs no training of the teacher. Raises TrainError."""
    from toolchain.distill import distillation_loss
    from toolchain.distill.objective import Setting
    from toolchain.models import create_model

    data, recipe = job.dataset(), job.recipe
    untrained = create_model(teacher.model_copy(update={"weights": None}), len(data.classes), recipe.data.image_size)
    check_views(job, untrained)
    if recipe.distill is None or getattr(recipe.distill, "teacher", None) is None:
        return  # it is only compared
    setting = Setting(fresh_student(job, 0), untrained, data, recipe.train, partial(fresh_student, job))
    distillation_loss(recipe.distill, setting)


def check_views(job: Job, teacher: nn.Module) -> None:
    """Refuse layers of measure.fidelity that are not there, before anything is trained. Raises TrainError."""
    fidelity = job.recipe.measure.fidelity
    if fidelity is None or not fidelity.gradcam:
        return
    from toolchain.gradcam.maps import check_layer

    for field in ("student_layer", "teacher_layer"):
        layer = getattr(fidelity, field)
        network = fresh_student(job, 0) if field == "student_layer" else teacher
        if layer is None or getattr(network, "logits_only", False):
            continue
        try:
            check_layer(network, layer, job.recipe.data.image_size)
        except TrainError as error:
            raise TrainError(f"measure.fidelity.{field}: {error}") from None


def fresh_student(job: Job, number: int) -> nn.Module:
    """The n-th twin of the recipe's student: 0 is initialised as the student itself is, each other one differently."""
    import torch

    from toolchain.models import create_model

    assert isinstance(job.recipe.model, TorchModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.recipe.seed + TWINS_APART * number)  # no seed a user would try next
        return create_model(located(job.recipe.model, job.base), len(job.dataset().classes), job.recipe.data.image_size)

"""Soft targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.errors import TrainError
from toolchain.recipe.schema import SoftTargets

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher || student) over the batch, in nats.

    student_logits, teacher_logits: (N, K) before softmax; no gradient reaches the teacher. Half precision is computed
    in float32, float64 stays. Returns: () scaled by temperature**2, so that its gradient, T (q - p) / N, stays
    comparable with the label loss.
    """
    student = (_at_least_float32(student_logits) / temperature).log_softmax(dim=1)
    teacher = (_at_least_float32(teacher_logits.detach()) / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def soft_targets(cfg: SoftTargets, teacher: nn.Module, label_smoothing: float) -> Loss:
    """ce_weight * CE(student, labels) + kd_weight * soft_target_loss; the teacher sees the student's pixels.

    The teacher is in eval mode under no_grad: BatchNorm statistics and dropout of train mode would change its answers.
    Raises TrainError at the first batch when the class counts differ.
    """
    teacher.eval().requires_grad_(False)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if next(teacher.parameters()).device != batch.images.device:
            teacher.to(batch.images.device)
        with torch.no_grad():
            teacher_logits = teacher(batch.images)
        student_logits = _at_least_float32(model(batch.images))
        if teacher_logits.shape != student_logits.shape:
            raise TrainError(f"distill.teacher: it has {teacher_logits.shape[1]} classes, the student has "
                             f"{student_logits.shape[1]}; use a teacher of the same dataset")
        with torch.autocast(batch.images.device.type, enabled=False):
            label = F.cross_entropy(student_logits, batch.labels, label_smoothing=label_smoothing)
            soft = soft_target_loss(student_logits, teacher_logits, cfg.temperature)
        return cfg.ce_weight * label + cfg.kd_weight * soft, student_logits

    return loss


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()

"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang 2022, arXiv:2203.08679)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolchain.distill.divergence import at_least_float32
from toolchain.distill.features import Outputs
from toolchain.distill.objective import Setting, objective
from toolchain.recipe.distill import Dkd

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def decoupled_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float,
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of each image, split at its label (equation 5 of the paper).

    student_logits, teacher_logits: (N, K) before softmax; no gradient reaches the teacher. labels: (N,) int64.
    Half precision is computed in float32, float64 stays.
    Returns: target-class and non-target-class KL, each (N,), in nats and not scaled by the temperature. With p the
    teacher's softened probability of the label, KL(teacher || student) = target + (1 - p) * non_target.
    """
    student_margin, student_others = _split(student_logits, labels, temperature)
    teacher_margin, teacher_others = _split(teacher_logits.detach(), labels, temperature)
    # the label against all others is a coin: its log-probabilities are those of a sigmoid, which never overflow
    target = teacher_margin.sigmoid() * (F.logsigmoid(teacher_margin) - F.logsigmoid(student_margin))
    target = target + (-teacher_margin).sigmoid() * (F.logsigmoid(-teacher_margin) - F.logsigmoid(-student_margin))
    non_target = (teacher_others.exp() * (teacher_others - student_others)).sum(dim=1)
    return target, non_target


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float,
) -> Tensor:
    """Mean over the batch of temperature**2 * (alpha * target KL + beta * non-target KL) (equation 7): ().

    Arguments as in `decoupled_kl`. With two classes nothing is left beside the label, and the non-target KL is 0.
    """
    target, non_target = decoupled_kl(student_logits, teacher_logits, labels, temperature)
    return temperature**2 * (alpha * target + beta * non_target).mean()


def dkd(cfg: Dkd, setting: Setting) -> Loss:
    """ce_weight * CE(student, labels) + dkd_loss; the schedule scales the latter."""
    def term(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return dkd_loss(student.logits, teacher.logits, batch.labels, cfg.temperature, cfg.alpha, cfg.beta)

    return objective(cfg, setting, term, weight=1.0)


def _split(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log odds of the label (N,), and log-probabilities among the other classes (N, K - 1).

    The other classes are gathered, not masked: an infinity as mask, or the logarithm of a sum of probabilities that
    underflowed, would turn the gradients of confident networks into NaN.
    """
    scaled = at_least_float32(logits) / temperature
    beside = torch.arange(1, scaled.shape[1], device=labels.device)
    others = scaled.gather(1, (labels[:, None] + beside) % scaled.shape[1])
    total = others.logsumexp(dim=1, keepdim=True)
    return (scaled.gather(1, labels[:, None]) - total).squeeze(1), others - total

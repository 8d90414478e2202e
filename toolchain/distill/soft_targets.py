"""Soft targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from toolchain.distill.divergence import soft_target_loss
from toolchain.distill.objective import Outputs, Setting, objective
from toolchain.recipe.distill import SoftTargets

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def soft_targets(cfg: SoftTargets, setting: Setting) -> Loss:
    """ce_weight * CE(student, labels) + kd_weight * soft_target_loss."""
    def term(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft_target_loss(student.logits, teacher.logits, cfg.temperature)

    return objective(cfg, setting, term, weight=cfg.kd_weight)

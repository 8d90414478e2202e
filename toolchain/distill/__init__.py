"""Knowledge distillation: each method turns its section and a teacher into a loss for the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.distill.soft_targets import soft_targets
from toolchain.recipe.schema import Distill

if TYPE_CHECKING:
    from torch import nn

    from toolchain.train import Loss

DISTILL = {"soft_targets": soft_targets}


def distillation_loss(cfg: Distill, teacher: nn.Module, label_smoothing: float = 0.0) -> Loss:
    """The loss of method `cfg.method`; `teacher` is put into eval mode and gets no gradient."""
    return DISTILL[cfg.method](cfg, teacher, label_smoothing)

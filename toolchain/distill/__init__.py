"""Knowledge distillation: each method turns its section and a setting (student, teacher, data) into a loss."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolchain.recipe.schema import Distill

if TYPE_CHECKING:
    from toolchain.distill.objective import Setting
    from toolchain.train import Loss

DISTILL = {  # method -> the module with a function of that name
    "soft_targets": "toolchain.distill.soft_targets",
    "dkd": "toolchain.distill.dkd",
    "function_matching": "toolchain.distill.function_matching",
    "hints": "toolchain.distill.hints",
    "attention_transfer": "toolchain.distill.attention_transfer",
    "crd": "toolchain.distill.crd",
    "crd_inbatch": "toolchain.distill.crd_inbatch",
    "mutual": "toolchain.distill.mutual",
}


def distillation_loss(cfg: Distill, setting: Setting) -> Loss:
    """The loss of method `cfg.method`, for `toolchain.train.fit`.

    Raises TrainError before any training when the teacher's classes, a layer's name or two feature maps do not fit.
    """
    method: Callable[[Any, Setting], Loss] = getattr(import_module(DISTILL[cfg.method]), cfg.method)
    return method(cfg, setting)

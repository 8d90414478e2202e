"""Function matching: a patient student of mixed images (Beyer et al. 2022, arXiv:2106.05237)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolchain.distill.divergence import soft_target_loss
from toolchain.distill.features import Outputs
from toolchain.distill.objective import Setting, objective
from toolchain.recipe.distill import FunctionMatching

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def mix(images: Tensor, share: float) -> Tensor:
    """share * images + (1 - share) * the batch rolled by one, (N, C, H, W): image n is mixed with image n - 1."""
    return share * images + (1 - share) * images.roll(1, dims=0)


def mixing_share(beta: float) -> float:
    """max(a, 1 - a) with a from Beta(beta, beta), in 0.5 to 1, drawn from torch's global generator on the CPU.

    That generator is reseeded each epoch by `fit`, so a resumed run mixes as an undisturbed one does.
    """
    # a = x / (x + y) with x, y from Gamma(beta), which is Gamma(beta + 1) * U^(1/beta) (Marsaglia, Tsang 2000). In
    # logarithms, because for a small beta x and y underflow, and torch.distributions.Beta then gives 0.5 where 1 is due
    grown = torch.distributions.Gamma(torch.tensor(beta + 1.0, dtype=torch.float64), 1.0).sample((2,)).log()
    x, y = grown + torch.rand(2, dtype=torch.float64).log() / beta
    return (x - y).abs().sigmoid().item()


def function_matching(cfg: FunctionMatching, setting: Setting) -> Loss:
    """kd_weight * soft_target_loss on mixed images: one share per batch, and no labels, which a mix does not have.

    Student and teacher see the same mix: a teacher's answers to the unmixed images, mixed afterwards, are not its
    answer to the mix.
    """
    def term(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft_target_loss(student.logits, teacher.logits, cfg.temperature)

    return objective(cfg, setting, term, weight=cfg.kd_weight, mix=lambda images: mix(images, mixing_share(cfg.beta)))

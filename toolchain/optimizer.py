"""How a step is taken: the optimizer, its learning rate over the run, and the arithmetic of the forward pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from toolchain.recipe.schema import AdamW, Sgd

WARM_UP = 0.3  # share of the steps in which one_cycle's learning rate rises (Smith, Topin 2017, arXiv:1708.07120)
START_FACTOR, END_FACTOR = 1 / 25, 1e-4  # one_cycle's first and last learning rate, relative to `lr`


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Share of `lr` used in `step` (from 0) of `steps`: one_cycle, cosine or constant."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _cosine(1.0, 0.0, step / steps)
    peak = WARM_UP * steps
    if step < peak:
        return _cosine(START_FACTOR, 1.0, step / peak)
    return _cosine(1.0, START_FACTOR * END_FACTOR, (step - peak) / max(1.0, steps - 1 - peak))


def make_optimizer(model: nn.Module, cfg: Sgd | AdamW) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over the parameters that want a gradient."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if isinstance(cfg, AdamW):
        return torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay)
    return torch.optim.SGD(parameters, lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay,
                           nesterov=cfg.momentum > 0)


def autocast_options(mixed_precision: str, device: torch.device) -> dict[str, Any]:
    """torch.autocast's `enabled` and `dtype`; "auto" is bf16 where the hardware multiplies in it, else off."""
    if mixed_precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
        mixed_precision = "bf16" if native else "no"
    if mixed_precision == "no":
        return {"enabled": False}
    return {"enabled": True, "dtype": torch.float16 if mixed_precision == "fp16" else torch.bfloat16}


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

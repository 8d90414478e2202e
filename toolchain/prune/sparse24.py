"""2:4 sparsity: of every four weights along the input channels, the two smallest are zero (arXiv:2104.08378).

Sparse tensor cores of SM80 and later skip the zeros. The rule of which layers qualify is that of NVIDIA's ASP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.errors import TrainError
from toolchain.prune.zeros import prunable, set_zero
from toolchain.recipe.prune import Sparse24

OUTPUTS, INPUTS = 8, 16  # a layer qualifies when its outputs and its inputs (per group) are multiples of these


def prune_24(model: nn.Module, cfg: Sparse24, number: int, seed: int) -> dict[str, Any]:
    """Zero two of every four weights of each layer that qualifies, in place.

    Returns {"sparse_layers": [name, ...], "skipped": {name: shape of its weight}}. Raises TrainError when none does.
    """
    weights = prunable(model)
    skipped = {name: list(weight.shape) for name, weight in weights.items() if not fits(weight.shape)}
    if len(skipped) == len(weights):
        shown = ", ".join(f"{name} {shape}" for name, shape in list(skipped.items())[:6])
        more = f" and {len(skipped) - 6} more" if len(skipped) > 6 else ""
        raise TrainError(f"prune: 2:4 sparsity needs a layer whose outputs are a multiple of {OUTPUTS} and inputs of "
                         f"{INPUTS}, found {shown or 'no Conv2d or Linear'}{more}; use a larger model.width, or "
                         "prune.method: magnitude")
    set_zero(model, {name: mask_24(weight) for name, weight in weights.items() if name not in skipped})
    return {"sparse_layers": [name for name in weights if name not in skipped], "skipped": skipped}


def fits(shape: Iterable[int]) -> bool:
    """Whether a weight of this shape, (K, C, R, S) or (K, C) with C per group of a convolution, takes the pattern."""
    outputs, inputs = list(shape)[:2]
    return outputs % OUTPUTS == 0 and inputs % INPUTS == 0


def mask_24(weight: Tensor) -> Tensor:
    """True for the two smallest magnitudes of every four successive input channels, for each output and position.

    weight: (K, C, R, S) or (K, C), C a multiple of 4. Of equal magnitudes the first are kept. Returns bool, same shape.
    """
    outputs, inputs = weight.shape[:2]
    fours = weight.detach().abs().reshape(outputs, inputs // 4, 4, -1)
    order = fours.argsort(dim=2, descending=True, stable=True)
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(2, order[:, :, 2:], True).view(weight.shape)

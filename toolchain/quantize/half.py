"""Fine-tuning for FP16 and BF16 engines (Micikevicius et al. 2018, arXiv:1710.03740): float32 master weights.

Each step computes with the weights rounded to half, as the engine stores them, and the gradient passes straight to the
float32 ones. It is mixed-precision training, not quantization-aware training: no range is clipped, no scale chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from toolchain import console
from toolchain.errors import TrainError
from toolchain.prune.zeros import zeros_kept
from toolchain.recipe.schema import FineTune, HalfFinetune
from toolchain.train import fit

if TYPE_CHECKING:
    from pathlib import Path

    from toolchain.data import Dataset

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class HalfWeights(nn.Module):
    """`network` run with every parameter rounded to `dtype`, in training and in evaluation."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, S, S)."""
        rounded = {name: _Rounded.apply(value, self.dtype) for name, value in self.network.named_parameters()}
        return functional_call(self.network, rounded, (images,))


def half_finetune(
    model: nn.Module, dataset: Dataset, cfg: HalfFinetune, *, folder: Path, seed: int
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Fine-tune `model` (BatchNorm folded, float32) until its weights, rounded to cfg.dtype, do well.

    On a GPU activations and gradients are of that type too, with loss scaling for fp16; a CPU computes in float32, as
    the engines of CPUs without half kernels do. Weights that are zero stay zero. Checkpoints and resumes as `fit` does.
    Returns the same model with float32 weights that cfg.dtype holds exactly, and the history, whose `val_top1` is that
    of rounded weights. Raises TrainError when a weight is too large for fp16, or the loss is not finite.
    """
    dtype, native = DTYPES[cfg.dtype], torch.cuda.is_available()
    _check_fits(model, cfg.dtype)
    if not native:
        console.log(f"  half_finetune: no GPU, so weights are rounded to {cfg.dtype} and the arithmetic is FP32")
    train = FineTune.model_validate({**cfg.train.model_dump(), "mixed_precision": cfg.dtype if native else "no"})
    wrapped = HalfWeights(model, dtype)
    with zeros_kept(wrapped):
        history = fit(wrapped, dataset, train, folder=folder, seed=seed, title="half_finetune")
    _check_fits(model, cfg.dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model.eval(), history


def _check_fits(model: nn.Module, dtype: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.detach().to(DTYPES[dtype]).isfinite().all():
            raise TrainError(f"half_finetune: {name} has a weight of magnitude {parameter.detach().abs().max():.6g}, "
                             f"but FP16 ends at {torch.finfo(torch.float16).max:.0f}; use dtype: bf16")

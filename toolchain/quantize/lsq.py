"""Learned step size (Esser et al. 2020, arXiv:1902.08153): the scale of every grid is trained beside the weights.

    dL/ds = sum of dL/dy * (round(x / s) - x / s inside, lowest or highest code outside) / sqrt(n * highest)

n: how many values of one image, or of one weight, share the scale. Inside is judged on x / s before it is rounded, as
in the paper; torch's learnable fake quantization judges the rounded code, half a step further out.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.graph.qdq import SMALLEST_SCALE
from toolchain.quantize.ste import scale_of


class _Lsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: int, highest: int, share: float) -> Tensor:
        used = scale_of(kept(scale, highest), highest)
        ctx.save_for_backward(x, used)
        ctx.lowest, ctx.highest, ctx.share = lowest, highest, share
        return (x / used).round().clamp(lowest, highest) * used

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        exact, gradient = x / scale, gradients[0]
        inside = (exact > ctx.lowest) & (exact < ctx.highest)
        slope = torch.where(inside, exact.round() - exact, exact.clamp(ctx.lowest, ctx.highest))
        to_scale = (gradient * slope).sum_to_size(scale.shape) * ctx.share
        return torch.where(inside, gradient, 0.0), to_scale, None, None, None


def lsq(x: Tensor, scale: Tensor, lowest: int, highest: int, shared_by: int) -> Tensor:
    """`x` on the grid of codes lowest … highest; scale broadcasts against x, and both get a gradient.

    shared_by: the n above.
    """
    return _Lsq.apply(x, scale, lowest, highest, 1 / sqrt(shared_by * highest))


def kept(scale: Tensor, highest: int) -> Tensor:
    """amax of a learned scale. The forward pass goes by it and not by the scale, as the graph side does."""
    return scale.clamp(min=SMALLEST_SCALE) * highest


def mean_start(mean_magnitude: Tensor | float, highest: int) -> Any:
    """The paper's first scale, of the argument's type: 2 mean|x| / sqrt(highest)."""
    return 2 * mean_magnitude / sqrt(highest)


class LsqWeight(nn.Module):
    """A weight in blocks (rows, blocks, length), one learned scale for each."""

    def __init__(self, blocks: Tensor, lowest: int, highest: int, start: str) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest
        size = blocks.detach().abs()
        first = (mean_start(size.mean(dim=2, keepdim=True), highest) if start == "mean"
                 else size.amax(dim=2, keepdim=True) / highest)
        self.scale = nn.Parameter(first)

    def amax(self, blocks: Tensor) -> Tensor:
        """(rows, blocks, 1), whatever the weights are."""
        return kept(self.scale.detach(), self.highest)

    def forward(self, blocks: Tensor) -> Tensor:
        """(rows, blocks, length) on the grid."""
        return lsq(blocks, self.scale, self.lowest, self.highest, blocks.shape[2])


class LsqInput(nn.Module):
    """A layer's input with one learned scale."""

    def __init__(self, amax: float, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest
        self.scale = nn.Parameter(torch.tensor([amax]) / highest)

    def amax(self) -> float:
        """Largest magnitude kept."""
        return kept(self.scale.detach(), self.highest).item()

    def forward(self, x: Tensor) -> Tensor:
        """`x` (N, …) on the grid."""
        return lsq(x.float(), self.scale, self.lowest, self.highest, x[0].numel())

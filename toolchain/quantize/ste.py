"""Straight-through rounding (Bengio et al. 2013, arXiv:1308.3432): ranges are given or observed, never learned.

The forward pass is what the graph side stores, operation by operation in float32: scale = amax / highest code,
code = clip(round_half_even(x / scale)), value = code * scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolchain.graph.qdq import SMALLEST_SCALE

FOLLOW = 0.01  # share of a new batch in the moving average, as torch's own observer has it


def scale_of(amax: Tensor, highest: int) -> Tensor:
    """The scale that the graph side stores for `amax` (any shape); 1 where all is zero."""
    return torch.where(amax > 0, (amax / highest).clamp(min=SMALLEST_SCALE), 1.0)


class _Ste(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, amax: Tensor, lowest: int, highest: int) -> Tensor:
        ctx.save_for_backward(x.abs() <= amax)
        scale = scale_of(amax, highest)
        return (x / scale).round().clamp(lowest, highest) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, gradients[0], 0.0), None, None, None


def ste(x: Tensor, amax: Tensor, lowest: int, highest: int) -> Tensor:
    """`x` on the grid of codes lowest … highest whose scale is amax / highest; amax broadcasts against x.

    The gradient is passed on where |x| <= amax and is 0 elsewhere; none reaches amax.
    """
    return _Ste.apply(x, amax, lowest, highest)


class SteWeight(nn.Module):
    """A weight in blocks, each with the scale of its largest |w| at this very step, so nothing is ever clipped."""

    def __init__(self, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest

    def amax(self, blocks: Tensor) -> Tensor:
        """(rows, blocks, length) -> (rows, blocks, 1)."""
        return blocks.detach().abs().amax(dim=2, keepdim=True)

    def forward(self, blocks: Tensor) -> Tensor:
        """(rows, blocks, length) on the grid."""
        return ste(blocks, self.amax(blocks), self.lowest, self.highest)


class SteInput(nn.Module):
    """A tensor that layers read, with one range, which follows the training: its next batch, if `following` is set.

    amax is a moving average of each batch's largest magnitude, of all processes' batches. The first layer that reads
    the batch moves it and clears `following`, so all layers see one grid; evaluation changes nothing.
    """

    def __init__(self, amax: float, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest, self.following = lowest, highest, False
        self.kept: Tensor
        self.register_buffer("kept", torch.tensor([amax]))

    def amax(self) -> float:
        """Largest magnitude kept."""
        return self.kept.item()

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape on the grid."""
        if self.training and self.following:
            self._follow(x.detach().abs().amax().float())
            self.following = False
        return ste(x.float(), self.kept, self.lowest, self.highest)

    def _follow(self, seen: Tensor) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        self.kept.lerp_(seen, FOLLOW)

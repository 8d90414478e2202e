"""Sparse training before pruning: whole channels, with all that is tied to them, are driven towards zero.

DepGraph's penalty (Fang et al. 2023, arXiv:2301.12900, eq. 4) with the constants of its code: the weaker a channel is
within its group, the harder it is pressed, up to 16 times as hard as the strongest one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolchain.prune.groups import Traced, members
from toolchain.prune.saliency import channel_sums, sum_by_root

HARDEST = 16.0  # 2 ** alpha, alpha = 4


def group_penalty(traced: Traced, model: nn.Module) -> Callable[[], Tensor]:
    """A function that gives the penalty of `model` as its weights then are: (), differentiable, on their device.

    1/2 sum over groups and their channels k of gamma_k * n_k ** 2, where n_k ** 2 sums the squares of the channel's
    filters, of the slices that read it and of BatchNorm's gammas, and gamma_k = 16 ** ((max n - n_k) / (max n - min n))
    is taken as constant (all 1 where the channels are equal). traced: of a copy of `model`.
    """
    tied = []
    for name, group in traced.groups.items():
        found = [(layer, member) for member in members(traced, name)
                 if isinstance(layer := model.get_submodule(member.layer),
                               (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))
                 and isinstance(layer.weight, nn.Parameter)]
        tied.append((found, group.channels))

    def penalty() -> Tensor:
        squares = [sum_by_root([(member, channel_sums(layer, member.inputs, _weight(layer).float() ** 2))
                                for layer, member in found], channels) for found, channels in tied]
        return torch.stack([(pressure(square.detach()) * square).sum() for square in squares]).sum() / 2

    return penalty


def pressure(squares: Tensor) -> Tensor:
    """gamma of every channel of a group, 1 to 16; squares: (channels,) squared norms."""
    norms = squares.sqrt()
    spread = norms.max() - norms.min()
    return HARDEST ** ((norms.max() - norms) / spread.clamp_min(1e-12)) if spread > 0 else torch.ones_like(norms)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight

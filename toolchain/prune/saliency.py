"""What a channel is worth: one score per channel from all that is tied to it (DepGraph, Fang et al. 2023).

l1 and l2 are torch-pruning's GroupMagnitudeImportance, to which the filters of depthwise convolutions are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.errors import TrainError
from toolchain.prune.groups import Member, Traced, members

Batches = Sequence[tuple[Tensor, Tensor]]  # images (N, 3, H, W) as the network takes them, labels int64 (N,)

# (weight) -> what each number in it is worth, same shape; None: by no weight
SALIENCY: dict[str, Callable[[nn.Parameter], Tensor] | None] = {
    "l1": lambda weight: weight.detach().abs(),
    "l2": lambda weight: weight.detach() ** 2,
    "bn_gamma": lambda weight: weight.detach().abs(),
    "taylor": lambda weight: (weight * _gradient(weight)).detach().abs(),
    "random": None,
}


def saliencies(traced: Traced, saliency: str, seed: int = 0, batches: Batches = ()) -> dict[str, Tensor]:
    """Group name -> (units,) float32 scores: the mean over the group's members, divided by the group's mean.

    l1, l2: sum |w|^p (no root) of the channel's filter, of the slices that read it and of BatchNorm's gamma (Fang et
    al. 2023). bn_gamma: |gamma| alone (Liu et al. 2017, arXiv:1708.06519). taylor: sum |w * dloss/dw| over the same
    numbers as l1 (Molchanov et al. 2019, arXiv:1906.10771), the loss being the mean cross-entropy over `batches`, in
    eval mode. random: uniform by `seed`, the control. Raises TrainError where a group has no such score.
    """
    worth = SALIENCY[saliency]
    if saliency == "taylor":
        set_gradients(traced.model, batches)
    random = torch.Generator().manual_seed(seed)
    scores = {}
    for name, group in traced.groups.items():
        if worth is None:
            scores[name] = torch.rand(group.units, generator=random)
            continue
        found = [(member, channel_sums(layer, member.inputs, worth(layer.weight))) for member in members(traced, name)
                 if isinstance(layer := traced.model.get_submodule(member.layer), _kinds(saliency))
                 and isinstance(layer.weight, nn.Parameter)]
        if not found:
            raise TrainError(f"prune.saliency: {saliency} says nothing of layer {name}, which no BatchNorm follows; "
                             "use l1, l2 or taylor")
        total = sum_by_root(found, group.channels) / len(found)
        scores[name] = (total / total.mean().clamp_min(1e-30)).view(group.blocks, group.units).mean(dim=0)
    return scores


def least(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` smallest scores, rising; of equal ones the first in order."""
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())


def channel_sums(layer: nn.Module, inputs: bool, worth: Tensor) -> Tensor:
    """Sum what a layer's weights are worth by channel: of those it reads (`inputs`), else of those it gives.

    worth: the shape of layer.weight, at least (C,). Returns (channels,). An input of a grouped convolution counts the
    weights of its own block.
    """
    if not inputs:
        return worth.flatten(1).sum(dim=1) if worth.dim() > 1 else worth
    blocks = layer.groups if isinstance(layer, nn.Conv2d) else 1
    split = worth.reshape(blocks, worth.shape[0] // blocks, worth.shape[1], -1)
    return split.sum(dim=(1, 3)).flatten()


def sum_by_root(found: Sequence[tuple[Member, Tensor]], channels: int) -> Tensor:
    """Add each member's sums (its channels,) to the channels (channels,) of the group that they belong to."""
    total = found[0][1].new_zeros(channels)
    for member, sums in found:
        device = sums.device
        total = total.index_add(0, member.roots.to(device), sums[member.indices.to(device)])
    return total


def set_gradients(model: nn.Module, batches: Batches) -> None:
    """Leave in every parameter of `model` the gradient of the mean cross-entropy over all images of `batches`."""
    if not batches:
        raise TrainError("prune.saliency: taylor needs images of the training data; use l1 or l2")
    model.zero_grad(set_to_none=True)
    images = sum(len(labels) for _, labels in batches)
    for pixels, labels in batches:
        (F.cross_entropy(model(pixels).float(), labels, reduction="sum") / images).backward()  # type: ignore[no-untyped-call]


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _kinds(saliency: str) -> tuple[type[nn.Module], ...]:
    return (nn.BatchNorm2d, nn.BatchNorm1d) if saliency == "bn_gamma" else (
        nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)

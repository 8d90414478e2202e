"""What a channel is worth: one score per channel from all that is tied to it (torch-pruning's group importances)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_pruning as tp
from torch import Tensor

from toolchain.errors import TrainError
from toolchain.prune.groups import Traced

# (group) -> (channels,) scores, or None where nothing of the group has such a score. taylor reads gradients
SALIENCY: dict[str, Callable[[], Callable[[tp.Group], Tensor | None]]] = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "bn_gamma": tp.importance.BNScaleImportance,
    "taylor": tp.importance.GroupTaylorImportance,
    "random": tp.importance.RandomImportance,
}
READS_GRADIENTS = ("taylor",)


def saliencies(traced: Traced, saliency: str, seed: int = 0) -> dict[str, Tensor]:
    """Group name -> (units,) float32 scores, the mean over its members divided by the group's mean.

    l1, l2: sum |w|^p (no root) of the channel's filter, of the slices that read it and of BatchNorm's gamma (Fang et
    al. 2023). bn_gamma: |gamma| (Liu et al. 2017, arXiv:1708.06519). taylor: |w * dloss/dw| (Molchanov et al. 2019,
    arXiv:1906.10771), from the gradients that the parameters of traced.model hold. random: by `seed`, the control.
    Raises TrainError where a group has no such score.
    """
    measure = SALIENCY[saliency]()
    scores = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, group in traced.groups.items():
            found = measure(traced.tied[name])
            if found is None:
                raise TrainError(f"prune.saliency: {saliency} says nothing of layer {name}"
                                 + (", which no BatchNorm follows" if saliency == "bn_gamma" else "")
                                 + "; use l1, l2 or taylor")
            scores[name] = found.detach().float().view(group.blocks, group.units).mean(dim=0)
    return scores


def least(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` smallest scores, rising; of equal ones the first in order."""
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())

"""Unstructured pruning by magnitude, at once or in rounds (Han et al. 2015, arXiv:1506.02626).

The saliency of a single weight is its magnitude. Its L1 and its L2 norm are the same number, so `norm` changes no mask.
How many go of each layer is a matter of scope; amounts.py counts those of scope: sensitivity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.prune.amounts import Curves, equal_drop_counts
from toolchain.prune.zeros import check_density, prunable, set_zero
from toolchain.recipe.prune import Magnitude


def prune_magnitude(
    model: nn.Module, cfg: Magnitude, number: int, seed: int, curves: Curves | None = None
) -> dict[str, Any]:
    """Zero the weights of `model` in place that round `number` (from 1) prunes; nothing further for the history.

    curves: for scope "sensitivity", what the scan of each layer of the unpruned network found. Raises TrainError when a
    layer would keep less than 1 % of its weights or the scan does not reach that far, RecipeError for a scan of another
    network.
    """
    weights = prunable(model)
    if cfg.scope == "sensitivity":
        assert curves is not None
        masks = sensitivity_masks(weights, cfg.round_share, number, curves)
    else:
        masks = magnitude_masks(weights, cfg.round_share, number, cfg.scope)
    set_zero(model, masks)
    check_density(model)
    return {}


def magnitude_masks(weights: Mapping[str, Tensor], share: float, rounds: int, scope: str) -> dict[str, Tensor]:
    """Which weights are zero after `rounds` rounds that each prune `share` of what is left, smallest first.

    weights: layer -> float tensor, with the zeros of the rounds before: they are the smallest, so they stay in the
    mask. scope: "layer" counts in each tensor, "global" in all together. Returns bool tensors of the same shapes, True
    where zero. Of equal magnitudes the first in order go.
    """
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    if scope == "layer":
        return {name: smallest(score, score.numel() - kept(score.numel(), share, rounds))
                for name, score in scores.items()}
    together = torch.cat([score.flatten() for score in scores.values()])
    mask = smallest(together, together.numel() - kept(together.numel(), share, rounds))
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def sensitivity_masks(weights: Mapping[str, Tensor], share: float, rounds: int, curves: Curves) -> dict[str, Tensor]:
    """Which weights are zero after `rounds` rounds, each layer by as much as costs the same accuracy in the scan.

    weights: layer -> float tensor, with the zeros of the rounds before. All else as in `magnitude_masks`.
    """
    sizes = {name: weight.numel() for name, weight in weights.items()}
    total = sum(sizes.values())
    zeros = {name: weight.numel() - int(weight.count_nonzero()) for name, weight in weights.items()}
    counts = equal_drop_counts(sizes, total - kept(total, share, rounds), curves, zeros)
    return {name: smallest(weight.detach().abs(), counts[name]) for name, weight in weights.items()}


def kept(weights: int, share: float, rounds: int) -> int:
    """How many of `weights` are left after `rounds` rounds that each prune round(share * what is left), half to even.

    Up to rounding that is weights * (1 - share) ** rounds.
    """
    for _ in range(rounds):
        weights -= round(share * weights)
    return weights


def smallest(scores: Tensor, count: int) -> Tensor:
    """A bool mask of the shape of `scores` with the `count` smallest ones True; of equal ones the first in order."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    mask = flat < threshold
    mask[(flat == threshold).nonzero()[: count - int(mask.sum()), 0]] = True
    return mask.view(scores.shape)

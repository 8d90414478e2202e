"""Lottery tickets: sparse networks that train from an early state (Frankle, Carbin 2019, arXiv:1803.03635).

Going back to the weights after a few epochs: Frankle et al. 2020, arXiv:1912.05671. Repeating the learning rate instead
of going back: Renda, Frankle, Carbin 2020, arXiv:2003.02389. Rounds are counted as in magnitude.py; the first paper's
code takes a percentile of the remaining weights, which can differ by one weight a layer and round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolchain.prune.magnitude import magnitude_masks, smallest
from toolchain.prune.zeros import check_density, prunable, set_zero
from toolchain.recipe.prune import Lottery


def prune_lottery(model: nn.Module, cfg: Lottery, number: int, seed: int) -> dict[str, Any]:
    """Zero the weights of the trained `model` in place that round `number` (from 1) prunes; rewinding comes after.

    `cfg.control: random_mask` zeroes as many of each layer at random, by `seed`. Raises TrainError when a layer would
    keep less than 1 % of its weights.
    """
    weights = prunable(model)
    masks = magnitude_masks(weights, cfg.round_share, number, cfg.scope)
    if cfg.control == "random_mask":
        generator = torch.Generator().manual_seed(seed)
        masks = {name: random_mask(weights[name], int(mask.sum()), generator) for name, mask in masks.items()}
    set_zero(model, masks)
    check_density(model)
    return {}


def random_mask(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A bool mask of the shape of `weight` with `count` True: all of its zeros, and others drawn at random."""
    scores = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    return smallest(scores.masked_fill(weight.detach() == 0, -1.0), count)


def rewind(model: nn.Module, start: nn.Module) -> None:
    """Set every parameter and buffer of `model` to that of `start`, in place; only its zero weights stay zero.

    Biases and BatchNorm, its running statistics among them, go back too.
    """
    zeros = {name: weight.detach() == 0 for name, weight in prunable(model).items()}
    model.load_state_dict(start.state_dict())
    set_zero(model, zeros)

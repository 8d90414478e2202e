"""Structured channel pruning: the least salient channels of every group go (DepGraph, Fang et al. 2023)."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from toolchain.errors import TrainError
from toolchain.prune.groups import Traced, remove, trace
from toolchain.prune.saliency import least, saliencies
from toolchain.recipe.schema import Channels

History = dict[str, Any]  # {"image_size": pixels, "steps": groups.Steps}


def prune_channels(model: nn.Module, cfg: Channels, image_size: int) -> tuple[nn.Module, History]:
    """A copy of `model` without `cfg.share` of the channels of every group, smallest saliency first.

    Kept counts are rounded down to a multiple of `cfg.round_to`; the logits keep their number. Returns the copy, in
    eval mode, and a JSON-able history that `replay_channels` repeats exactly. Raises TrainError when the network cannot
    be traced, or a layer would be left without channels.
    """
    traced = trace(copy.deepcopy(model), image_size)
    kept = _kept(traced, cfg)
    scores = saliencies(traced, cfg.saliency)
    removed = {name: least(score, len(score) - kept[name]) for name, score in scores.items()}
    smaller, steps = remove(model, image_size, removed)
    return smaller, {"image_size": image_size, "steps": steps}


def _kept(traced: Traced, cfg: Channels) -> dict[str, int]:
    kept = {}
    for name, group in traced.groups.items():
        left = int(group.units * (1 - cfg.share))
        kept[name] = left - left % cfg.round_to
    if empty := [f"{name} ({traced.groups[name].channels} channels)" for name, left in kept.items() if left <= 0]:
        shown = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
        raise TrainError(f"prune: ratio {cfg.share:g} rounded down to a multiple of {cfg.round_to} leaves no channel "
                         f"in {shown}; use a smaller prune.ratio or prune.round_to")
    return kept

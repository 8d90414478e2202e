"""Structured channel pruning by the L2 norm of each dependency group (DepGraph, Fang et al. 2023, arXiv:2301.12900).

Channels tied together by residual additions, depthwise convolutions, concatenations or flattening form one group and
are removed at the same index everywhere, so the pruned network is a smaller dense network, not a masked one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from toolchain.errors import TrainError
from toolchain.recipe.schema import Channels

History = dict[str, Any]  # {"image_size": pixels, "steps": [[layer name, True: its outputs, [channel, ...]], ...]}


def prune_channels(model: nn.Module, cfg: Channels, image_size: int) -> tuple[nn.Module, History]:
    """A copy of `model` without `cfg.ratio` of the channels of every group, smallest group norm first.

    A channel's saliency is the mean over the group's members of sum |w|^2 (no root), divided by the group's mean:
    GroupMagnitudeImportance with p = 2. Kept counts are rounded down to a multiple of `cfg.round_to`; the logits keep
    their number. Returns the copy, in eval mode, and a JSON-able history that `replay_channels` repeats exactly.
    Raises TrainError when the network cannot be traced, or a layer would be left without channels.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(True)  # the tracer follows gradients
    images = torch.zeros(1, 3, image_size, image_size)
    classes = _logits(model, images).shape[1]
    with _tracer_errors("prune"):
        pruner = tp.BasePruner(
            model, images, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=cfg.ratio,
            round_to=cfg.round_to, ignored_layers=[classifier(model, images)])
    _refuse_empty_layers(model, pruner, cfg)
    with _tracer_errors("prune"):
        pruner.step()
    steps = [[name, bool(outputs), [int(index) for index in channels]]
             for name, outputs, channels in pruner.pruning_history()]
    if not steps:
        raise TrainError("prune: no channel can be removed from this network; remove the prune section")
    if (found := _logits(model, images).shape[1]) != classes:
        raise TrainError(f"prune: the logits would shrink from {classes} to {found}; the network's last layer must be "
                         "the Conv2d or Linear that gives the logits")
    model.zero_grad(set_to_none=True)
    return model, {"image_size": image_size, "steps": steps}


def replay_channels(model: nn.Module, history: History) -> nn.Module:
    """Shrink a freshly constructed `model` in place to the shapes of the pruned one, whose weights can then be loaded.

    Raises TrainError when the history does not belong to this architecture.
    """
    size = history["image_size"]
    model.cpu().eval().requires_grad_(True)
    with _tracer_errors("prune history"):
        graph = tp.DependencyGraph().build_dependency(model, torch.zeros(1, 3, size, size))
        graph.load_pruning_history([(name, outputs, list(channels)) for name, outputs, channels in history["steps"]])
    return model


def classifier(model: nn.Module, images: Tensor) -> nn.Module:
    """The Conv2d or Linear that runs last, whose outputs are the logits."""
    ran: list[nn.Module] = []
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in layers]
    try:
        _logits(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise TrainError("prune: the network has no Conv2d or Linear layer, so it has no channels to prune")
    return ran[-1]


def _refuse_empty_layers(model: nn.Module, pruner: tp.BasePruner, cfg: Channels) -> None:
    """torch-pruning skips a layer that would be left empty, without a word; say which and stop instead."""
    names = {module: name for name, module in model.named_modules()}
    empty = []
    for group in pruner.DG.get_all_groups(
            ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types):
        root = group[0].dep.target.module
        channels = pruner.DG.get_out_channels(root)
        kept = int(channels * (1 - cfg.ratio))
        if kept - kept % cfg.round_to <= 0:
            empty.append(f"{names[root]} ({channels} channels)")
    if empty:
        shown = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
        raise TrainError(f"prune: ratio {cfg.ratio:g} rounded down to a multiple of {cfg.round_to} leaves no channel "
                         f"in {shown}; use a smaller prune.ratio or prune.round_to")


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@contextmanager
def _tracer_errors(where: str) -> Iterator[None]:
    """torch-pruning raises whatever its tracer stumbles over; give it our name, and keep its warnings to ourselves."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TrainError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise TrainError(f"{where}: the network's channels cannot be followed through all of its operations "
                         f"({type(error).__name__}: {reason}); prune supports feed-forward networks of standard layers"
                         ) from error

"""Which channels are tied together, and their surgery (DepGraph, Fang et al. 2023, arXiv:2301.12900).

Channels tied by residual additions, depthwise convolutions, concatenations or flattening form one group and are removed
at the same index everywhere, so the pruned network is a smaller dense network, not a masked one. A method decides
which; torch-pruning follows the ties.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from toolchain.errors import TrainError

Steps = list[list[Any]]  # [[layer name, True: its outputs, [channel, ...]], ...], in the order of the surgery


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    name: of its first layer. layers: names of all Conv2d and Linear layers whose outputs shrink with it. channels: of
    its first layer. blocks: a grouped convolution's equal blocks, all of which lose the same positions: 1 elsewhere.
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    blocks: int

    @property
    def units(self) -> int:
        """How many choices there are: channels, or positions within a block."""
        return self.channels // self.blocks


@dataclass(frozen=True)
class Traced:
    """A network whose channels have been followed: the graph of ties, and its groups in order of definition."""

    model: nn.Module
    graph: tp.DependencyGraph
    names: Mapping[nn.Module, str]
    tied: Mapping[str, tp.Group]  # group name -> all of its channels
    groups: Mapping[str, Group]


def trace(model: nn.Module, image_size: int) -> Traced:
    """Follow the channels of `model`, which is put into eval mode on the CPU; the logits belong to no group.

    image_size: of the square RGB images it takes, pixels. Raises TrainError naming what cannot be followed.
    """
    model.cpu().eval().requires_grad_(True)  # the tracer follows gradients
    images = torch.zeros(1, 3, image_size, image_size)
    names = {module: name for name, module in model.named_modules()}
    with tracer_errors("prune"):
        last = classifier(model, images)
        graph = tp.DependencyGraph().build_dependency(model, images, verbose=False)
        found = {names[tied[0].dep.target.module]: tied for tied in graph.get_all_groups(ignored_layers=[last])}
    groups = {name: _described(name, found[name], names) for name in names.values() if name in found}
    if not groups:
        raise TrainError("prune: no channel can be removed from this network; remove the prune section")
    return Traced(model, graph, names, found, groups)


def remove(model: nn.Module, image_size: int, removed: Mapping[str, Sequence[int]]) -> tuple[nn.Module, Steps]:
    """A copy of `model` without the units removed[group name], and the JSON-able steps that `replay_channels` repeats.

    Raises TrainError when a group would be left empty, is not known, or the logits would shrink.
    """
    smaller = copy.deepcopy(model)
    traced = trace(smaller, image_size)
    classes = logits_of(smaller, image_size)
    for name, units in removed.items():
        group = traced.groups.get(name)
        if group is None:
            raise TrainError(f"prune: no group of channels is named '{name}'; expected {', '.join(traced.groups)}")
        if len(set(units)) >= group.units:
            raise TrainError(f"prune: layer {name} would be left without channels; remove fewer than {group.channels}")
        if units:
            layer = smaller.get_submodule(name)
            everything = traced.graph.get_pruner_of_module(layer).prune_out_channels
            channels = sorted(unit + block * group.units for unit in set(units) for block in range(group.blocks))
            with tracer_errors("prune"):
                traced.graph.get_pruning_group(layer, everything, channels).prune()
    steps: Steps = [[name, bool(outputs), [int(index) for index in channels]]
                    for name, outputs, channels in traced.graph.pruning_history()]
    if (found := logits_of(smaller, image_size)) != classes:
        raise TrainError(f"prune: the logits would shrink from {classes} to {found}; the network's last layer must be "
                         "the Conv2d or Linear that gives the logits")
    smaller.zero_grad(set_to_none=True)
    return smaller, steps


def replay_channels(model: nn.Module, history: Mapping[str, Any]) -> nn.Module:
    """Shrink a freshly constructed `model` in place to the shapes of the pruned one, whose weights can then be loaded.

    history: {"image_size": pixels, "steps": Steps}. Raises TrainError when it does not belong to this architecture.
    """
    size = history["image_size"]
    model.cpu().eval().requires_grad_(True)
    with tracer_errors("prune history"):
        graph = tp.DependencyGraph().build_dependency(model, torch.zeros(1, 3, size, size), verbose=False)
        graph.load_pruning_history([(name, outputs, list(channels)) for name, outputs, channels in history["steps"]])
    return model


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels or features of every Conv2d and Linear layer, by name."""
    return {name: layer.weight.shape[0] for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))}


def classifier(model: nn.Module, images: Tensor) -> nn.Module:
    """The Conv2d or Linear that runs last, whose outputs are the logits."""
    ran: list[nn.Module] = []
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in layers]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise TrainError("prune: the network has no Conv2d or Linear layer, so it has no channels to prune")
    return ran[-1]


def logits_of(model: nn.Module, image_size: int) -> int:
    """How many logits an image of that size gets."""
    with torch.no_grad():
        return int(model(torch.zeros(1, 3, image_size, image_size)).shape[1])


@contextmanager
def tracer_errors(where: str) -> Iterator[None]:
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


def _described(name: str, tied: tp.Group, names: Mapping[nn.Module, str]) -> Group:
    shrinking = [dep.target.module for dep, _ in tied if dep.handler in (
        tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels, tp.prune_linear_out_channels)]
    # a grouped convolution that reads the channels holds them to equal blocks as one that gives them does
    grouped = [dep.target.module.groups for dep, _ in tied
               if isinstance(dep.target.module, nn.Conv2d) and 1 < dep.target.module.groups < len(tied[0].idxs)]
    layers = tuple(dict.fromkeys(names[module] for module in shrinking))
    return Group(name, layers, len(tied[0].idxs), max(grouped, default=1))

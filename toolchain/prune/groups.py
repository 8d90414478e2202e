"""Which channels are tied together, and their surgery (DepGraph, Fang et al. 2023, arXiv:2301.12900).

Channels tied by residual additions, depthwise convolutions, concatenations or flattening form one group and are removed
at the same index everywhere, so the pruned network is a smaller dense network, not a masked one. A method decides
which; torch-pruning follows the ties.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from toolchain.errors import TrainError
from toolchain.prune.proof import check_same, operators, run, tracer_errors, unread_weights

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


@dataclass(frozen=True)
class Member:
    """A layer's share in a group. inputs: the channels it reads, else those it gives.

    indices: int64 (M,), its own channels. roots: int64 (M,), the group's channel to which each of them belongs.
    """

    layer: str
    inputs: bool
    indices: Tensor
    roots: Tensor


def members(traced: Traced, name: str) -> list[Member]:
    """Of the group `name` every module that has a size to lose, in the order in which they are tied."""
    tied = traced.tied[name]
    found = []
    for place, (dep, indices) in enumerate(tied):
        roots = tied[place].root_idxs
        if dep.target.module in traced.names and None not in roots:
            inputs = dep.handler in (tp.prune_conv_in_channels, tp.prune_linear_in_channels)
            found.append(Member(traced.names[dep.target.module], inputs, torch.tensor(indices), torch.tensor(roots)))
    return found


def structure(traced: Traced, name: str) -> tuple[tuple[str, str, str], ...]:
    """What kinds of modules are tied and in which direction: equal for isomorphic groups (Fang et al. 2024)."""
    return tuple((type(dep.source.module).__name__, type(dep.target.module).__name__,
                  "out" if traced.graph.is_out_channel_pruning_fn(dep.handler) else "in")
                 for dep, _ in traced.tied[name])


def channels_of(group: Group, units: Sequence[int]) -> list[int]:
    """The channels of these units, rising: the same positions of every block."""
    return sorted(unit + block * group.units for unit in set(units) for block in range(group.blocks))


def remove(model: nn.Module, image_size: int, removed: Mapping[str, Sequence[int]]) -> tuple[nn.Module, Steps]:
    """A copy of `model` without the units removed[group name], and the JSON-able steps that `replay_channels` repeats.

    It is proven on images to compute what `model` does where nothing reads those channels. Raises TrainError when it
    does not, a group would be left empty or is not known, or the logits would shrink.
    """
    smaller = copy.deepcopy(model)
    traced = trace(smaller, image_size)
    classes = run(smaller, image_size).shape[1]
    for name, units in removed.items():
        group = traced.groups.get(name)
        if group is None:
            raise TrainError(f"prune: no group of channels is named '{name}'; expected {', '.join(traced.groups)}")
        if len(set(units)) >= group.units:
            raise TrainError(f"prune: layer {name} would be left without channels; remove fewer than {group.channels}")
    chosen = {name: channels_of(traced.groups[name], units) for name, units in removed.items() if units}
    expected = run(_unread(model, traced, chosen), image_size)
    known = operators(smaller, image_size)
    with tracer_errors("prune", known):
        for name, channels in chosen.items():
            layer = smaller.get_submodule(name)
            everything = traced.graph.get_pruner_of_module(layer).prune_out_channels
            traced.graph.get_pruning_group(layer, everything, channels).prune()
        found = run(smaller, image_size)
    steps: Steps = [[name, bool(outputs), [int(index) for index in channels]]
                    for name, outputs, channels in traced.graph.pruning_history()]
    if found.shape[1] != classes:
        raise TrainError(f"prune: the logits would shrink from {classes} to {found.shape[1]}; the network's last layer "
                         "must be the Conv2d or Linear that gives the logits")
    check_same(expected, found, known)
    smaller.zero_grad(set_to_none=True)
    return smaller, steps


def replay_channels(model: nn.Module, history: Mapping[str, Any]) -> nn.Module:
    """Shrink a freshly constructed `model` in place to the shapes of the pruned one, whose weights can then be loaded.

    history: {"image_size": pixels, "steps": Steps}. Raises TrainError when it does not belong to this architecture.
    """
    size = history["image_size"]
    model.cpu().eval().requires_grad_(True)
    layers = dict(model.named_modules())
    with tracer_errors("prune history"):
        graph = tp.DependencyGraph().build_dependency(model, torch.zeros(1, 3, size, size), verbose=False)
        for name, outputs, channels in history["steps"]:
            layer = layers.get(name)
            if not isinstance(layer, (nn.Conv2d, nn.Linear)):
                raise TrainError(f"prune history: it was written for another network; this one has no Conv2d or Linear "
                                 f"named {name}")
            width = layer.weight.shape[0] if outputs else getattr(layer, "in_channels", layer.weight.shape[1])
            if not channels or not 0 <= min(channels) <= max(channels) < width or len(set(channels)) >= width:
                raise TrainError(f"prune history: it was written for another network; {name} has {width} channels, "
                                 f"and the history removes {len(set(channels))} of them, up to number "
                                 f"{max(channels, default=0)}")
            graph.load_pruning_history([(name, outputs, list(channels))])
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


def _unread(model: nn.Module, traced: Traced, chosen: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy in which no layer reads the chosen channels of the groups: what is left when they are removed."""
    reference = copy.deepcopy(model).cpu().eval()
    for name, channels in chosen.items():
        for member in members(traced, name):
            if member.inputs:
                gone = member.indices[torch.isin(member.roots, torch.tensor(channels))]
                unread_weights(reference.get_submodule(member.layer), gone)
    return reference


def _described(name: str, tied: tp.Group, names: Mapping[nn.Module, str]) -> Group:
    shrinking = [dep.target.module for dep, _ in tied if dep.handler in (
        tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels, tp.prune_linear_out_channels)]
    # a grouped convolution that reads the channels holds them to equal blocks as one that gives them does
    grouped = [dep.target.module.groups for dep, _ in tied
               if isinstance(dep.target.module, nn.Conv2d) and 1 < dep.target.module.groups < len(tied[0].idxs)]
    layers = tuple(dict.fromkeys(names[module] for module in shrinking))
    return Group(name, layers, len(tied[0].idxs), max(grouped, default=1))

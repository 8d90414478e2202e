"""How many parameters a network would have with other widths, without building it.

Every dimension of a parameter shrinks by a whole number for each unit that a group loses: 1 where it counts the
channels, H * W behind a flattening, the number of blocks of a grouped convolution. Products of such dimensions give the
exact count for any widths.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from toolchain.prune.groups import Traced, channels_of, trace
from toolchain.prune.proof import tracer_errors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """The parameters of a network, and what a unit of each group is worth.

    units: group -> units at full width, in order of definition. shapes: of every parameter at full width. losses: group
    -> for each parameter that shrinks with it, by its place in `shapes`, what one unit takes off its dimensions.
    """

    units: Mapping[str, int]
    shapes: Sequence[Shape]
    losses: Mapping[str, Mapping[int, Shape]]

    def parameters(self, removed: Mapping[str, int]) -> int:
        """The exact number of parameters without removed[group] units of each group."""
        left = [list(shape) for shape in self.shapes]
        for name, count in removed.items():
            for place, loss in self.losses[name].items():
                left[place] = [size - count * less for size, less in zip(left[place], loss, strict=True)]
        return sum(map(math.prod, left))


def sizes_of(model: nn.Module, image_size: int) -> Sizes:
    """Found by removing one unit of each group in turn from a copy of `model`. Raises TrainError."""
    probe = trace(copy.deepcopy(model), image_size)
    before = first = _shapes(probe.model)
    losses: dict[str, dict[int, Shape]] = {}
    for name, group in probe.groups.items():
        losses[name] = {}
        if group.units == 1:  # it cannot lose any
            continue
        with tracer_errors("prune"):
            _without_one(probe, name)
        after = _shapes(probe.model)
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new:
                losses[name][place] = tuple(o - n for o, n in zip(old, new, strict=True))
        before = after
    return Sizes({name: group.units for name, group in probe.groups.items()}, first, losses)


def _without_one(probe: Traced, name: str) -> None:
    group, layer = probe.groups[name], probe.model.get_submodule(name)
    everything = probe.graph.get_pruner_of_module(layer).prune_out_channels
    probe.graph.get_pruning_group(layer, everything, channels_of(group, [group.units - 1])).prune()


def _shapes(model: nn.Module) -> list[Shape]:
    return [tuple(parameter.shape) for parameter in model.parameters()]

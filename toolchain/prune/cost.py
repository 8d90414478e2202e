"""What a network costs: parameters, and the multiply-accumulates of its convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.prune.groups import Traced, members


@dataclass(frozen=True)
class Cost:
    """parameters: all of them, buffers not. macs: multiply-accumulates for one image, the sum of `layers`.

    layers: macs of each Conv2d and Linear by name; biases, BatchNorm, activations and pooling count nothing.
    """

    parameters: int
    macs: int
    layers: Mapping[str, int]


def cost(model: nn.Module, image_size: int) -> Cost:
    """Count on one square RGB image of `image_size` pixels, on the device of the weights; the model stays as it is.

    A layer's macs are its outputs times the inputs that each reads: in_channels / groups * kernel height * kernel width
    for Conv2d, in_features for Linear. A layer that runs twice counts twice.
    """
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    layers = dict.fromkeys(names.values(), 0)

    def count(layer: nn.Module, _: Any, outputs: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        layers[names[layer]] += outputs[0].numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in names]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in model.parameters()), sum(layers.values()), layers)


def cost_at(traced: Traced, whole: Cost, kept: Mapping[str, int]) -> Cost:
    """What the network would cost with `kept` units of each group, without building it.

    whole: of traced.model. A Conv2d or Linear costs in proportion to its outputs and, unless it is depthwise, to the
    inputs that each of them reads.
    """
    lost: dict[tuple[str, bool], int] = {}
    for name, units in kept.items():
        group = traced.groups[name]
        for member in members(traced, name):
            key = (member.layer, member.inputs)
            lost[key] = lost.get(key, 0) + len(member.indices) // group.units * (group.units - units)
    parameters, layers = whole.parameters, dict(whole.layers)
    for layer in dict.fromkeys(layer for layer, _ in lost):
        module = traced.model.get_submodule(layer)
        outputs, inputs = (Fraction(size - lost.get((layer, reads), 0), size)
                           for size, reads in zip(_sizes(module), (False, True), strict=True))
        for name, parameter in module.named_parameters(recurse=False):
            left = outputs * inputs if name == "weight" and layer in layers else outputs
            parameters -= parameter.numel() - (int(parameter.numel() * left) if parameter.numel() > 1 else 1)
        if layer in layers:
            layers[layer] = int(layers[layer] * outputs * inputs)
    return Cost(parameters, sum(layers.values()), layers)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a module; whatever is no Conv2d or Linear has one size."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    size = max((parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.dim()), default=1)
    return size, size

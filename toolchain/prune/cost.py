"""What a network costs: parameters, and the multiply-accumulates of its convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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

"""Sparse weights without masks: a weight that is exactly zero is pruned, so nothing is stored beside the weights.

A dense weight that happens to be exactly 0.0 is pruned by that, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.errors import TrainError
from toolchain.recipe.prune import LEAST_DENSITY


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weight of every Conv2d and Linear (subclasses too) by the layer's name; never a bias or BatchNorm's."""
    return {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}


def set_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the weights of layer `name` where the bool mask masks[name], of the weight's shape, is True; in place."""
    weights = prunable(model)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(mask, 0.0)  # never -0.0, as a product with the mask would give


@contextmanager
def zeros_kept(model: nn.Module) -> Iterator[None]:
    """While the block runs, a zero weight of `model` gets no gradient, whatever the loss says.

    With a zero gradient, fresh momentum and weight decay of zero, SGD, Nesterov's and Adam's steps leave an exact zero
    alone. The zeros are read at every step, so that weights restored from a checkpoint or moved to a GPU need nothing.
    """
    def hook(weight: Tensor) -> Any:
        # where, not a product: infinite gradients of a scaled fp16 loss would become 0 * inf = nan
        return weight.register_hook(lambda gradient: torch.where(weight != 0, gradient, 0.0))

    hooks = [hook(weight) for weight in prunable(model).values() if weight.requires_grad]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def sparsity(model: nn.Module) -> dict[str, Any]:
    """How much is left: {"density": {layer: share of non-zero weights}, "sparsity_prunable", "sparsity_all"}.

    Sparsities are shares of zeros, 0 to 1: among the weights that can be pruned, and among all parameters.
    """
    weights = prunable(model)
    left = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    prunable_weights = sum(weight.numel() for weight in weights.values())
    zeros = prunable_weights - sum(left.values())
    return {"density": {name: left[name] / weight.numel() for name, weight in weights.items()},
            "sparsity_prunable": zeros / prunable_weights,
            "sparsity_all": zeros / sum(parameter.numel() for parameter in model.parameters())}


def check_density(model: nn.Module) -> None:
    """Refuse a network with a layer of which next to nothing is left. Raises TrainError naming it."""
    if not (density := sparsity(model)["density"] if prunable(model) else {}):
        raise TrainError("prune: the network has no Conv2d or Linear layer, so it has no weights to prune")
    thin = {name: share for name, share in density.items() if share < LEAST_DENSITY}
    if thin:
        shown = ", ".join(f"{name} ({100 * share:.2g} %)" for name, share in list(thin.items())[:3])
        more = f" and {len(thin) - 3} more" if len(thin) > 3 else ""
        raise TrainError(f"prune: less than {100 * LEAST_DENSITY:g} % of the weights would be left in {shown}{more}; "
                         "use prune.scope: layer, a smaller share or fewer rounds")


def replay_zeros(model: nn.Module, history: Mapping[str, Any]) -> nn.Module:
    """The model as it is: zeros change no shape. Raises TrainError when the history names other layers than it has."""
    if odd := sorted(set(history["density"]) ^ set(prunable(model))):
        raise TrainError(f"prune history: it was written for another network; {odd[0]} is a layer of only one of them")
    return model

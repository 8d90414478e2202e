"""BatchNorm folded into the convolution or linear layer before it (Jacob et al. 2018, arXiv:1712.05877, 3.2)."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from toolchain.errors import TrainError


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same logits, with Conv-BN and Linear-BN pairs folded.

    The copy keeps its class and the names of its convolutions (`features.0.weight`); each gains a bias, and its
    BatchNorm becomes an Identity. A BatchNorm without such a layer before it stays. Raises TrainError when the forward
    pass depends on the data, so that it cannot be traced.
    """
    folded = copy.deepcopy(model).eval()
    for layer_name, norm_name in conv_bn_pairs(folded):
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        if isinstance(layer, nn.Conv2d):
            assert isinstance(norm, nn.BatchNorm2d)
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        else:
            assert isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
            fused = fuse_linear_bn_eval(layer, norm)
        _replace(folded, layer_name, fused)
        _replace(folded, norm_name, nn.Identity())
    return folded


def conv_bn_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(layer, BatchNorm) names where the BatchNorm is the only reader of the layer, and each runs once."""
    try:
        with torch.no_grad():
            graph = fx.symbolic_trace(model).graph
    except Exception as error:  # fx raises whatever the user's forward runs into
        raise TrainError(f"{type(model).__name__}: cannot be traced, so its BatchNorm cannot be folded ({error}); its "
                         "forward must not branch on tensor values") from error
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = {name: sum(node.target == name for node in calls) for name in modules}
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer, norm = modules[str(before.target)], modules[str(node.target)]
        fits = (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                or isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d))
        if fits and norm.running_mean is not None and uses[str(before.target)] == uses[str(node.target)] == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

"""One Conv2d or Linear layer as a chain of two or three thinner ones, by truncated singular value decomposition.

channel: a k x k convolution to r channels, then a 1 x 1 (Zhang et al. 2016, arXiv:1505.06798). spatial: a k x 1, then
a 1 x k (Jaderberg et al. 2014, arXiv:1405.3866). tucker2: a 1 x 1, a k x k core, a 1 x 1 (Kim et al. 2016,
arXiv:1511.06530), by the higher-order SVD and one pass of orthogonal iteration (HOOI). linear: two linear layers.
Truncation loses least in the Frobenius norm (Eckart, Young 1936); what is lost is the tail's squared singular values.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear


def scheme_of(layer: nn.Module, wanted: str) -> str | None:
    """How this layer can be factorized where `wanted` (channel, spatial or tucker2) is asked for; None: not at all.

    A linear layer becomes two whatever is asked, and so does a 1 x 1 convolution, which has nothing else to split.
    Grouped and depthwise convolutions, and subclasses with a forward of their own, stay as they are.
    """
    if type(layer) is nn.Linear:
        return "linear"
    if type(layer) is not nn.Conv2d or layer.groups != 1:
        return None
    return "channel" if layer.kernel_size == (1, 1) else wanted


def unfoldings(weight: Tensor, scheme: str) -> list[Tensor]:
    """The matrices whose ranks the scheme truncates: one, or tucker2's two, (in, out * k * k) and (out, in * k * k).

    weight: (out, in, k, k) or (out, in). spatial's is (out * k horizontal, in * k vertical).
    """
    if scheme == "tucker2":
        return [weight.transpose(0, 1).flatten(1), weight.flatten(1)]
    if scheme == "spatial":
        return [weight.permute(0, 3, 1, 2).reshape(weight.shape[0] * weight.shape[3], -1)]
    return [weight.flatten(1)]


def energies(layer: Layer, scheme: str) -> list[Tensor]:
    """For each unfolding, (full rank,) float64: the share of its squared singular values that the first r hold.

    The last one is 1 exactly. Of a layer without any weight but zeros, all are 1.
    """
    squares = [torch.linalg.svdvals(matrix).square() for matrix in unfoldings(_exact(layer.weight), scheme)]
    return [(found.cumsum(0) / found.sum()).nan_to_num(1.0).index_fill(0, torch.tensor(len(found) - 1), 1.0)
            for found in squares]


def weights_at(shape: Sequence[int], scheme: str, ranks: Sequence[int]) -> int:
    """Weights of the chain at these ranks, biases apart; shape: of the layer's, (out, in, k, k) or (out, in)."""
    outputs, inputs, *kernel = shape
    if scheme == "tucker2":
        first, last = ranks
        return inputs * first + first * last * prod(kernel) + last * outputs
    if scheme == "spatial":
        return ranks[0] * (inputs * kernel[0] + outputs * kernel[1])
    return ranks[0] * (inputs * prod(kernel) + outputs)


def chain(layer: Layer, scheme: str, ranks: Sequence[int]) -> nn.Sequential:
    """The layers that take the place of `layer`, with weights that are still to be set; only the last has its bias."""
    if isinstance(layer, nn.Linear):
        inputs, outputs, bias = layer.in_features, layer.out_features, layer.bias is not None
        return nn.Sequential(nn.Linear(inputs, ranks[0], bias=False), nn.Linear(ranks[0], outputs, bias=bias))
    inputs, outputs, bias = layer.in_channels, layer.out_channels, layer.bias is not None
    whole = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    if scheme == "spatial":
        return nn.Sequential(_conv(inputs, ranks[0], False, _along(whole, 0)),
                             _conv(ranks[0], outputs, bias, _along(whole, 1)))
    if scheme == "channel":
        return nn.Sequential(_conv(inputs, ranks[0], False, whole), _conv(ranks[0], outputs, bias, {"kernel_size": 1}))
    first, last = ranks
    return nn.Sequential(_conv(inputs, first, False, {"kernel_size": 1}), _conv(first, last, False, whole),
                         _conv(last, outputs, bias, {"kernel_size": 1}))


def factorized(layer: Layer, scheme: str, ranks: Sequence[int]) -> nn.Sequential:
    """`chain` with the weights that come nearest to the layer's, computed in float64; the layer itself stays."""
    weight = _exact(layer.weight)
    factors = _tucker2(weight, ranks) if scheme == "tucker2" else _two(weight, scheme, ranks[0])
    made = chain(layer, scheme, ranks).to(layer.weight)
    with torch.no_grad():
        for part, factor in zip(made, factors, strict=True):
            part.weight.copy_(factor)  # type: ignore[union-attr, operator]
        if layer.bias is not None:
            made[-1].bias.copy_(layer.bias)  # type: ignore[union-attr, operator]
    return made.train(layer.training)


def _two(weight: Tensor, scheme: str, rank: int) -> list[Tensor]:
    """Both factors with sqrt(S) on each side, in the shapes of their layers' weights."""
    left, values, right = torch.linalg.svd(unfoldings(weight, scheme)[0], full_matrices=False)
    roots = values[:rank].sqrt()
    first, last = roots[:, None] * right[:rank], left[:, :rank] * roots
    if scheme == "linear":
        return [first, last]
    outputs, inputs, high, wide = weight.shape
    if scheme == "channel":
        return [first.view(rank, inputs, high, wide), last[:, :, None, None]]
    return [first.view(rank, inputs, high, 1), last.view(outputs, wide, rank).transpose(1, 2)[:, :, None]]


def _tucker2(weight: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    first, last = ranks
    inputs = _leading(unfoldings(weight, "tucker2")[0], first)
    # HOOI: each side's basis once more, from the weight as the other one leaves it
    outputs = _leading(torch.einsum("oihw,ir->orhw", weight, inputs).flatten(1), last)
    inputs = _leading(torch.einsum("oihw,or->irhw", weight, outputs).flatten(1), first)
    core = torch.einsum("oihw,ir,op->prhw", weight, inputs, outputs)
    parts = [inputs.T[:, :, None, None], core, outputs[:, :, None, None]]
    norms = torch.stack([part.norm() for part in parts])
    # the three share the scale equally, as sqrt(S) on both sides does for two
    shared = norms.prod() ** (1 / 3)
    return [part * (shared / norm) if shared else part for part, norm in zip(parts, norms, strict=True)]


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """(rows, rank): the first left singular vectors."""
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().double().cpu()


def _conv(inputs: int, outputs: int, bias: bool, options: dict[str, Any]) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, bias=bias, **options)


def _along(whole: dict[str, Any], axis: int) -> dict[str, Any]:
    """The options of a convolution that only acts along one axis: 0 vertical, 1 horizontal."""
    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    options = {}
    for name, value in whole.items():
        if name not in neutral or isinstance(value, str):  # padding: same and valid hold for either axis
            options[name] = value
        else:
            options[name] = (value[0], neutral[name]) if axis == 0 else (neutral[name], value[1])
    return options

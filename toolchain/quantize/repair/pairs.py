"""Layers between which channels can be rescaled: one divides, the next multiplies, and the network computes the same.

What lies between must commute with a positive factor per channel: ReLU(s x) = s ReLU(x), and so do leaky ReLU, max and
average pooling and flattening. ReLU6 does not: Clip(0, 6) of s x is s times a Clip at 6 / s, another one per channel.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from toolchain.graph.edit import constant
from toolchain.graph.layers import Layer, layers
from toolchain.quantize.repair.network import bias, owned, result, store, store_bias

COMMUTES = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True)
class Pair:
    """`first` makes the channels; all of `seconds`, and nothing else, read them."""

    first: Layer
    seconds: tuple[Layer, ...]

    @property
    def channels(self) -> int:
        """Output channels of `first`; a second that reads flattened maps has several inputs for each."""
        return self.first.array.shape[self.first.axis]


def find_pairs(graph: ir.Graph) -> tuple[list[Pair], Counter[str]]:
    """Every pair in the order of the graph, and why the other layers have none (an operator, or a reason).

    Needs inferred shapes where maps are flattened.
    """
    found = layers(graph)
    by_node = {layer.node: layer for layer in found}
    pairs, refused = list[Pair](), Counter[str]()
    for first in found:
        seconds = _readers(result(first), by_node)
        if isinstance(seconds, str):
            refused[seconds] += 1
        elif bias(first) is None or not all(owned(layer) for layer in (first, *seconds)):
            refused["a shared weight or an unusual bias"] += 1
        elif seconds:
            pair = Pair(first, tuple(dict.fromkeys(seconds)))
            fits = all(len(by_input(second, second.array)) % pair.channels == 0 for second in pair.seconds)
            pairs += [pair] if fits else []
    return pairs, refused


def in_words(pairs: list[Pair], refused: Counter[str]) -> str:
    """How many pairs there are, and what stands in the way of the rest."""
    reasons = ", ".join(f"{n} x {reason}" for reason, n in sorted(refused.items()))
    left = f"; left alone: {reasons}" if reasons else ""
    return f"{len(pairs)} pairs{left}" if pairs else f"no pair of layers found to rescale{left}"


def by_output(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """A weight of this layer as (output channels, weights of each)."""
    return np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1)


def by_input(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """A weight of this layer as (input channels, weights that read each); groups are taken apart."""
    if layer.op != "Conv":
        return weight.T if layer.axis == 0 else weight
    groups = groups_of(layer)
    parts = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return parts.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


def groups_of(layer: Layer) -> int:
    """`group` of a convolution; 1 for the rest."""
    attribute = layer.node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1


def input_amax(pair: Pair, weights: dict[str, np.ndarray]) -> np.ndarray:
    """(channels,) largest |w| that reads each channel, over all seconds. weights: by weight name."""
    found = [np.abs(by_input(s, weights[s.weight.name or ""])).reshape(pair.channels, -1).max(axis=1)
             for s in pair.seconds]
    return np.max(found, axis=0)


def rescale(pair: Pair, scale: np.ndarray, weights: dict[str, np.ndarray], biases: dict[str, np.ndarray]) -> None:
    """Divide what `first` makes by scale (channels,), multiply what reads it; both dicts by weight name, in place."""
    first = pair.first.weight.name or ""
    shape = [-1 if i == pair.first.axis else 1 for i in range(weights[first].ndim)]
    weights[first] = weights[first] / scale.reshape(shape)
    biases[first] = biases[first] / scale
    for second in pair.seconds:
        name = second.weight.name or ""
        weight = weights[name]
        spread = np.repeat(scale, len(by_input(second, weight)) // pair.channels)
        if second.op == "Conv":
            groups = groups_of(second)
            grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
            weights[name] = (grouped * spread.reshape(groups, 1, -1, 1)).reshape(weight.shape)
        else:
            weights[name] = weight * (spread[None, :] if second.axis == 0 else spread[:, None])


def open_weights(pairs: list[Pair]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights and biases of all layers concerned, float64, by weight name."""
    members = [layer for pair in pairs for layer in (pair.first, *pair.seconds)]
    weights = {layer.weight.name or "": layer.array.astype(np.float64) for layer in members}
    firsts = {pair.first.weight.name or "": bias(pair.first) for pair in pairs}
    return weights, {name: found.astype(np.float64) for name, found in firsts.items() if found is not None}


def write_back(graph: ir.Graph, pairs: list[Pair], weights: dict[str, np.ndarray], biases: dict[str, np.ndarray]
               ) -> None:
    """Store the rescaled numbers in the graph; a bias of zeros that was not there stays away."""
    for layer in {layer.weight.name: layer for pair in pairs for layer in (pair.first, *pair.seconds)}.values():
        store(layer.weight, weights[layer.weight.name or ""])
    for pair in pairs:
        if biases[pair.first.weight.name or ""].any():
            store_bias(graph, pair.first, biases[pair.first.weight.name or ""])


def _readers(value: ir.Value, by_node: dict[ir.Node, Layer]) -> list[Layer] | str:
    """Layers that read the value, directly or behind what commutes; the operator that stands in the way."""
    if value.is_graph_output():
        return "the network's output"
    found: list[Layer] = []
    for use in value.uses():
        node = use.node
        if node in by_node and use.idx == 0:
            found.append(by_node[node])
            continue
        if use.idx != 0 or not (node.op_type in COMMUTES or _flattens(node)):
            return node.op_type
        behind = _readers(node.outputs[0], by_node)
        if isinstance(behind, str):
            return behind
        found += behind
    return found


def _flattens(node: ir.Node) -> bool:
    """A Reshape of (N, C, …) to (N, all of it): channel c becomes equally many neighbouring features."""
    shape, target = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None, None
    if node.op_type == "Reshape":
        target = constant(node.inputs[1])
    if shape is None or target is None or target.size != 2:
        return False
    sizes = [size for size in list(shape)[1:] if isinstance(size, int)]
    return len(sizes) == len(shape) - 1 and int(target[1]) in (-1, prod(sizes))

"""What there is to quantize in a clean float graph: its layers with stored weights, and the tensors that feed them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError, nearest
from toolchain.graph.edit import constant

LAYER_OPS = ("Conv", "Gemm", "MatMul")
POOL_OPS = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
JOIN_OPS = ("Add", "Concat")
MOVED_PAST = ("Relu", "Clip", "MaxPool", "Reshape", "Transpose")  # a Q behind one of them serves the layer before it


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul whose weight is stored in the file.

    axis: the output channels' axis of the weight. macs: multiply-accumulates per image (None: shapes unknown).
    """

    node: ir.Node
    name: str
    op: str
    weight: ir.Value
    axis: int
    macs: int | None

    @property
    def array(self) -> np.ndarray:
        """The weight itself, float32."""
        found = constant(self.weight)
        assert found is not None
        return found

    @property
    def input(self) -> ir.Value:
        """The activation this layer reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value


def layers(graph: ir.Graph) -> list[Layer]:
    """Layers in the order they run. `macs` needs inferred shapes."""
    return [_layer(node) for node in graph if node.op_type in LAYER_OPS and _has_stored_weight(node)]


def chosen_layers(graph: ir.Graph, first_last: str, keep_float: Collection[str] = (),
                  only: Collection[str] | None = None) -> list[Layer]:
    """The layers to quantize, in order: all, without the first and the last where `first_last` is "float".

    keep_float: names of layers to leave out. only: names of the layers to choose from; None: all. Raises OnnxError for
    a name in `keep_float` that no layer has.
    """
    found = layers(graph)
    names = [layer.name for layer in found]
    for name in keep_float:
        if name not in names:
            raise OnnxError(f"keep_float: found '{name}', expected names of layers ({', '.join(names[:3])}, …)"
                            f"{nearest(name, names)}")
    return [layer for layer in (found if first_last != "float" else found[1:-1])
            if layer.name not in keep_float and (only is None or layer.name in only)]


def layer_name(node: ir.Node) -> str:
    """The PyTorch module's name when the weight's name tells it, else the node's name."""
    weight = (node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else None) or ""
    for suffix in (".weight", ".weight_folded"):
        if weight.endswith(suffix):
            return weight.removesuffix(suffix)
    return node.name or weight or node.outputs[0].name or node.op_type


def channel_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a Conv, Gemm or MatMul."""
    transposed = node.attributes.get("transB")
    return 0 if node.op_type == "Conv" or (transposed is not None and transposed.as_int()) else 1


def quantizable_tensors(graph: ir.Graph) -> list[str]:
    """Names of all activations that some target may quantize: inputs of layers, pools, residual Adds and Concats, and
    what a convolution hands on to anything else (a HardSwish), as it is an integer kernel only with a quantized result.

    In the order they are computed, each once. Which of them are float is for the runtime to say.
    """
    found: dict[str, None] = {}
    for node in graph:
        feeding: list[ir.Value | None] = []
        if node.op_type in LAYER_OPS and _has_stored_weight(node) or node.op_type in POOL_OPS:
            feeding = [node.inputs[0]]
        elif node.op_type in JOIN_OPS:
            feeding = list(node.inputs) if all(constant(value) is None for value in node.inputs) else []
        if node.op_type == "Conv" and _has_stored_weight(node):
            feeding.append(handed_on(node))
        found.update({value.name: None for value in feeding if value is not None and value.name})
    return list(found)


def handed_on(node: ir.Node) -> ir.Value | None:
    """The value that a Q after `node` would stand on: its result, behind the activations that an integer kernel takes
    over; None where nothing reads it."""
    value = node.outputs[0]
    while len(uses := list(value.uses())) == 1 and uses[0].node.op_type in MOVED_PAST:
        value = uses[0].node.outputs[0]
    return value if uses else None


def _has_stored_weight(node: ir.Node) -> bool:
    weight = constant(node.inputs[1])
    if weight is None or constant(node.inputs[0]) is not None:
        return False
    if node.op_type == "Gemm" and not _is_plain(node):
        return False
    return weight.ndim >= 2 if node.op_type == "Conv" else weight.ndim == 2


def _is_plain(node: ir.Node) -> bool:
    """A Gemm that is a linear layer: x W + b, with x as it comes and nothing scaled."""
    transposed = node.attributes.get("transA")
    scales = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    return not (transposed is not None and transposed.as_int()) and all(scale == 1 for scale in scales)


def _layer(node: ir.Node) -> Layer:
    weight = node.inputs[1]
    assert weight is not None
    return Layer(node, layer_name(node), node.op_type, weight, channel_axis(node), _macs(node, weight))


def _macs(node: ir.Node, weight: ir.Value) -> int | None:
    shape = node.outputs[0].shape
    if weight.shape is None or (node.op_type == "Conv" and shape is None):
        return None
    positions = list(shape[2:]) if node.op_type == "Conv" and shape is not None else []
    sizes = [d for d in [*weight.shape, *positions] if isinstance(d, int)]
    return prod(sizes) if len(sizes) == len(weight.shape) + len(positions) else None

"""Walking an engine's ONNX graph: the types of what is stored, the codes around a layer, and who reads its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx_ir as ir

from toolchain.graph.edit import constant

TYPES = {
    ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16", ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "uint8", ir.DataType.INT4: "int4", ir.DataType.UINT4: "uint4", ir.DataType.FLOAT8E4M3FN: "fp8",
}
# what a runtime may take into the kernel of the layer before it
FOLLOWING = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Add", "Sub", "Mul",
             "QuantizeLinear")
ACTIVATIONS = ("Relu", "Clip")  # between a layer and its QuantizeLinear, where integers can take them over
FURTHEST = 4  # nodes behind a layer whose names its kernel may carry


class Codes(NamedTuple):
    """The integers of a QuantizeLinear or DequantizeLinear. kind: "int8", "uint8", "fp8", …"""

    kind: str
    zero_point: float


def kind(value: ir.Value | None) -> str:
    """The type of a tensor that is stored in the file, in our words."""
    dtype = value.dtype if value is not None else None
    return TYPES.get(dtype, str(dtype)) if dtype is not None else "unknown"


def size(value: ir.Value) -> int:
    """Number of stored elements."""
    return value.const_value.size if value.const_value is not None else 0


def float_type(value: ir.Value | None) -> str:
    """The type of a weight as its layer reads it, which is that of the layer's arithmetic as the file writes it."""
    producer = value.producer() if value is not None else None
    if value is None or producer is None:
        return kind(value)
    if producer.op_type == "Cast":
        return TYPES.get(ir.DataType(producer.attributes["to"].as_int()), "unknown")
    position = {"DequantizeLinear": 1}.get(producer.op_type, 0)
    return float_type(producer.inputs[position])


def integer(node: ir.Node | None, name: str, default: int) -> int:
    """An integer attribute."""
    found = node.attributes.get(name) if node is not None else None
    return found.as_int() if found is not None else default


def live_values(graph: ir.Graph) -> set[ir.Value]:
    """What depends on the graph's inputs; the rest is made of stored tensors alone."""
    live = set(graph.inputs)
    for node in graph:
        if any(value in live for value in node.inputs):
            live.update(node.outputs)
    return live


def codes_before(value: ir.Value | None) -> Codes | None:
    """The codes that `value` was decoded from; None when it is float."""
    producer = value.producer() if value is not None else None
    return _codes(producer) if producer is not None and producer.op_type == "DequantizeLinear" else None


def codes_behind(value: ir.Value) -> Codes | None:
    """The codes that `value` becomes, directly or behind an activation, whoever else reads it in float.

    None without a QuantizeLinear there; `float_reader` tells of the others.
    """
    for reader in readers(value):
        if reader.op_type == "QuantizeLinear":
            return _codes(reader)
        if reader.op_type in ACTIVATIONS and (found := codes_behind(reader.outputs[0])):
            return found
    return None


def _codes(node: ir.Node) -> Codes | None:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(zero_point)
    if array is None:
        return Codes("uint8", 0.0)  # ONNX's default without a zero point
    return Codes(kind(zero_point), float(array.astype("float32").reshape(-1)[0]))


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read `value`, each once, in no particular order."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def float_reader(value: ir.Value) -> str | None:
    """"Add '/layer1/Add'": a node that reads the value in float, behind an activation at most; None without any."""
    for reader in readers(value):
        if reader.op_type in ACTIVATIONS:
            if found := float_reader(reader.outputs[0]):
                return found
        elif reader.op_type != "QuantizeLinear":
            return f"{reader.op_type} '{reader.name}'"
    return None


def own_names(node: ir.Node) -> tuple[str, ...]:
    """The node's name and its output's, as far as they have one."""
    return tuple(name for name in (node.name, node.outputs[0].name) if name)


def aliases(node: ir.Node) -> Iterator[str]:
    """Names that a runtime may give the kernel of `node`, nearest first: its own, its output's, and those behind it."""
    yield from own_names(node)
    near, seen = [node], {node}
    for _ in range(FURTHEST):
        behind = dict.fromkeys(reader for here in near for reader in readers(here.outputs[0]))
        near = [reader for reader in behind if reader.op_type in FOLLOWING and reader not in seen]
        seen.update(near)
        for reader in near:
            yield from own_names(reader)

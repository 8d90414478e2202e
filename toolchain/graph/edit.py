"""How a pass changes a graph: a stored tensor more, a node before another, one computation in place of another."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

STORED = {np.dtype(ml_dtypes.int4): ir.DataType.INT4, np.dtype(ml_dtypes.bfloat16): ir.DataType.BFLOAT16,
          np.dtype(ml_dtypes.float8_e4m3fn): ir.DataType.FLOAT8E4M3FN}


def names_of(graph: ir.Graph) -> set[str]:
    """Every value name in use."""
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    return {value.name for value in values if value.name}


def unused_name(graph: ir.Graph, name: str) -> str:
    """`name`, or `name_2`, `name_3`, … if it is taken."""
    taken, candidate, n = names_of(graph), name, 1
    while candidate in taken:
        n += 1
        candidate = f"{name}_{n}"
    return candidate


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Store `array` (numpy or ml_dtypes; int4 is packed two per byte) under `name` or a free variant of it."""
    name = unused_name(graph, name)
    array = np.ascontiguousarray(array) if array.ndim else array
    tensor = ir.Tensor(array, dtype=STORED.get(array.dtype), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert(
    graph: ir.Graph, before: ir.Node | None, op: str, inputs: list[ir.Value | None], output: str,
    **attributes: int | list[int]
) -> ir.Value:
    """A node computing `output` (or a free variant of the name) placed before `before` (None: at the end)."""
    node = ir.node(op, inputs, attributes=attributes or None, version=None)
    node.outputs[0].name = unused_name(graph, output)
    node.name = f"{node.outputs[0].name}/{op}"
    graph.append(node) if before is None else graph.insert_before(before, node)
    return node.outputs[0]


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove `node`; `value` takes its only output's readers, name, type and place among the graph's outputs."""
    old = node.outputs[0]
    name = old.name
    value.type, value.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind `value` when it is stored in the file and cannot be overridden as an input; None otherwise."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()

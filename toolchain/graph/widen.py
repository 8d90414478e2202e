"""A graph that computes in half, made runnable on a CPU: every value rounded to half, every operation done in FP32.

ONNX Runtime's CPU side has no bfloat16 convolutions, and where it has no FP16 kernel it leaves values in FP32 between
nodes, so that an overflow goes unseen. GPUs multiply half inputs and accumulate in FP32: rounding each result to half
gives their numbers up to the order of additions. Used only to compare a file with its source.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.graph.edit import insert

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def widen(model: ir.Model) -> None:
    """Rewrite a half-precision `model` in place: FP32 operations, each half result rounded by a pair of Casts."""
    passes.ShapeInferencePass()(model)
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype in HALF and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.Tensor(array, name=value.name), ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        for value in node.outputs:
            kind = value.dtype
            if kind not in HALF or kind is None:
                continue
            uses = [(use.node, use.idx) for use in value.uses()]
            rounded = value
            if node.op_type != "Cast":
                rounded = insert(graph, _next(graph, node), "Cast", [value], f"{value.name}_rounded", to=int(kind))
            wide = insert(graph, _next(graph, rounded.producer()), "Cast", [rounded], f"{value.name}_wide",
                          to=int(ir.DataType.FLOAT))
            for reader, position in uses:
                reader.replace_input_with(position, wide)
    for node in graph:
        for value in node.outputs:
            if value not in graph.outputs:
                value.type, value.shape = None, None


def _next(graph: ir.Graph, node: ir.Node | None) -> ir.Node | None:
    found = False
    for other in graph:
        if found:
            return other
        found = other is node
    return None

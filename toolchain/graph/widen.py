"""A bfloat16 graph made runnable on a CPU: every value rounded to bfloat16, every operation done in FP32.

No CPU runtime has bfloat16 convolutions, but a GPU's multiply bfloat16 inputs and accumulate in FP32: rounding each
result to bfloat16 gives the same numbers up to the order of additions. Used only to compare a file with its source.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.graph.edit import insert

BF16 = ir.DataType.BFLOAT16


def widen(model: ir.Model) -> None:
    """Rewrite a bfloat16 `model` in place: FP32 operations, each bfloat16 result rounded through a pair of Casts."""
    passes.ShapeInferencePass()(model)
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == BF16 and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.Tensor(array, name=value.name), ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        for value in node.outputs:
            if value.dtype != BF16:
                continue
            uses = [(use.node, use.idx) for use in value.uses()]
            rounded = value
            if node.op_type != "Cast":
                rounded = insert(graph, _next(graph, node), "Cast", [value], f"{value.name}_rounded", to=int(BF16))
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

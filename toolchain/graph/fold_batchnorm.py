"""Conv + BatchNormalization -> Conv: y = gamma (Wx + b - mean) / sqrt(var + eps) + beta is a convolution again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from toolchain.graph.clean import drop_unused
from toolchain.graph.edit import add_initializer, constant, replace_node

EPSILON = 1e-5  # ONNX's default


def fold_batchnorm(model: ir.Model) -> int:
    """Fold every BatchNormalization that alone consumes a Conv with stored weights. Returns how many were folded.

    Computed in float64, stored in the weight's own type. A weight shared with another layer is left alone.
    """
    folded = 0
    for node in list(model.graph):
        conv = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] else None
        if conv is not None and conv.op_type == "Conv" and _fold(model.graph, conv, node):
            folded += 1
    if folded:
        drop_unused(model)
    return folded


def _fold(graph: ir.Graph, conv: ir.Node, norm: ir.Node) -> bool:
    output, kernel = conv.outputs[0], conv.inputs[1]
    weight, stats = constant(kernel), [constant(value) for value in norm.inputs[1:5]]
    biased = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = constant(conv.inputs[2]) if biased else np.zeros(1)
    if kernel is None or weight is None or bias is None or any(s is None for s in stats):
        return False
    if len(output.uses()) != 1 or output.is_graph_output() or len(kernel.uses()) != 1:
        return False
    gamma, beta, mean, var = (s.astype(np.float64) for s in stats if s is not None)
    attribute = norm.attributes.get("epsilon")
    factor = gamma / np.sqrt(var + (attribute.as_float() if attribute else EPSILON))
    scaled = weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    shifted = (bias.astype(np.float64) - mean) * factor + beta
    name = kernel.name or "weight"
    conv.replace_input_with(1, add_initializer(graph, f"{name}_folded", scaled.astype(weight.dtype)))
    conv.resize_inputs(3)
    conv.replace_input_with(2, add_initializer(graph, f"{name}_bias", shifted.astype(weight.dtype)))
    replace_node(graph, norm, output)
    return True

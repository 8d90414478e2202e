"""Flatten -> Reshape: the same thing, but ONNX Runtime moves a QuantizeLinear across a Reshape only.

Behind a pool that matters: the pool runs in integers when the Q that follows it ends up right at its output.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from toolchain.graph.edit import add_initializer, insert, replace_node


def flatten_to_reshape(model: ir.Model) -> int:
    """Rewrite every Flatten from axis 1 on as Reshape to (0, -1): batch kept, the rest in one. Returns how many."""
    changed = 0
    for node in list(model.graph):
        axis = node.attributes.get("axis")
        if node.op_type == "Flatten" and (axis is None or axis.as_int() == 1):
            name = node.outputs[0].name
            target = add_initializer(model.graph, f"{name}_shape", np.array([0, -1], np.int64))
            flat = insert(model.graph, node, "Reshape", [node.inputs[0], target], f"{name}_flat")
            replace_node(model.graph, node, flat)
            changed += 1
    return changed

"""ReduceMean over height and width -> GlobalAveragePool.

PyTorch's exporter writes global average pooling as ReduceMean; runtimes have an INT8 kernel for the pooling only.
"""

from __future__ import annotations

import onnx_ir as ir

from toolchain.graph.edit import constant, insert, replace_node


def use_global_average_pool(model: ir.Model) -> int:
    """Rewrite ReduceMean(axes = the last two of four, keepdims = 1). Returns how many. Needs inferred shapes."""
    changed = 0
    for node in list(model.graph):
        if node.op_type == "ReduceMean" and _is_global_pool(node):
            pooled = insert(model.graph, node, "GlobalAveragePool", [node.inputs[0]], f"{node.outputs[0].name}_pooled")
            replace_node(model.graph, node, pooled)
            changed += 1
    return changed


def _is_global_pool(node: ir.Node) -> bool:
    image = node.inputs[0]
    if image is None or image.shape is None or len(image.shape) != 4:
        return False
    keepdims, stored = node.attributes.get("keepdims"), node.attributes.get("axes")
    axes = stored.as_ints() if stored else constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or (keepdims is not None and keepdims.as_int() != 1):
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3]

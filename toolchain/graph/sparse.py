"""Which layers of an ONNX file are 2:4 sparse: of every four weights along the input channels at least two are zero.

That is the pattern whose zeros sparse tensor cores skip (Mishra et al. 2021, arXiv:2104.08378); it is looked for in the
file itself, so that it does not matter how the zeros came about, and that what was lost on the way is seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from toolchain.graph.edit import constant
from toolchain.graph.layers import LAYER_OPS
from toolchain.graph.onnx_file import read_onnx

STORING = ("DequantizeLinear", "Cast", "Reshape")  # what may stand between a layer and its stored weight


def sparse_layers(path: Path) -> tuple[int, int]:
    """(layers that are 2:4, all layers) among the Conv, Gemm and MatMul nodes with a stored weight.

    Codes of INT8 and INT4 count as weights: with zero_point 0 a code is zero exactly where the engine computes with
    zero. Raises OnnxError when the file cannot be read.
    """
    graph = read_onnx(path).graph
    stored = [(node, weight) for node in graph if node.op_type in LAYER_OPS and
              (weight := _stored(node.inputs[1])) is not None and weight.ndim >= 2]
    return sum(is_24(weight, _input_axis(node)) for node, weight in stored), len(stored)


def is_24(weight: np.ndarray, axis: int) -> bool:
    """Whether of every four successive weights along `axis` at least two are zero; False where fours do not fit."""
    if not weight.shape[axis] or weight.shape[axis] % 4:
        return False
    fours = (np.moveaxis(weight, axis, -1) != 0).reshape(-1, 4)
    return bool((np.count_nonzero(fours, axis=1) <= 2).all())


def _stored(value: ir.Value | None) -> np.ndarray | None:
    """The weight behind `value`, in the shape that the layer reads; codes where it is quantized. None: computed."""
    if (found := constant(value)) is not None:
        return found
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in STORING:
        return None
    if node.op_type == "DequantizeLinear" and len(node.inputs) > 2:
        zero_point = constant(node.inputs[2])
        if zero_point is None or zero_point.any():
            return None
    weight = _stored(node.inputs[0])
    if node.op_type != "Reshape" or weight is None:
        return weight
    shape = constant(node.inputs[1])
    return None if shape is None else weight.reshape([int(size) for size in shape])


def _input_axis(node: ir.Node) -> int:
    """Of a convolution's (K, C, R, S) it is C; of a linear layer's weight the axis that is summed over."""
    transposed = node.attributes.get("transB")
    return 1 if node.op_type == "Conv" or (transposed is not None and transposed.as_int()) else 0

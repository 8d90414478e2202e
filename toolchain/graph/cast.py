"""FP16 and BF16 graphs in two forms: computed in half (GPUs), or only stored in half (a CPU without half kernels)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError
from toolchain.graph.edit import insert, unused_name
from toolchain.graph.qdq import SMALLEST_SCALE

HALF = {
    "fp16": (np.dtype(np.float16), ir.DataType.FLOAT16),
    "bf16": (np.dtype(ml_dtypes.bfloat16), ir.DataType.BFLOAT16),
}
LARGEST_FP16 = 65504.0
BF16_OPSET = 22  # the first whose Conv, pools and friends take bfloat16
FLOAT_ONLY = {"Resize": (2,), "Upsample": (1,)}  # inputs the standard fixes to float32 whatever the data's type


def compute_in_half(model: ir.Model, precision: str, keep_fp32: Sequence[ir.Node] = ()) -> None:
    """Cast all weights and activations of a float `model` to `precision`; graph inputs and outputs stay FP32.

    keep_fp32: nodes that go on computing in FP32, on their own stored FP32 weights, with casts around them. INT8/INT4
    codes stay as they are; their scales become half too, as ONNX asks. Raises OnnxError naming a weight that FP16
    cannot hold.
    """
    kind = HALF[precision][1]
    graph = model.graph
    keep = {node.inputs[i] for node in graph for i in FLOAT_ONLY.get(node.op_type, ()) if i < len(node.inputs)}
    keep |= {value for node in keep_fp32 for value in node.inputs[1:]}
    scales = {node.inputs[1] for node in graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value not in keep:
            _store(value, _half(value, precision, at_least=SMALLEST_SCALE if value in scales else None))
    for node in graph:
        _retarget(node, kind)
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            _cast_input(graph, value, kind)
    for position, value in enumerate(graph.outputs):
        if value.dtype in (ir.DataType.FLOAT, None):
            _cast_output(graph, position, value, kind)
    for node in keep_fp32:
        _cast_around(graph, node, kind)
    if precision == "bf16":
        model.opset_imports[""] = max(BF16_OPSET, model.opset_imports[""])


def store_in_half(model: ir.Model, precision: str, only: Collection[ir.Value] | None = None) -> None:
    """Store every float weight of `model` in `precision`, followed by a Cast to FP32 that runtimes fold when they load.

    only: the stored tensors to change; None: all. Arithmetic stays FP32, on rounded weights. Raises OnnxError naming a
    weight that FP16 cannot hold.
    """
    graph = model.graph
    for value in [value for value in graph.initializers.values() if only is None or value in only]:
        readers = {use.node for use in value.uses()}
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or value.const_value.size < 2 or not readers:
            continue
        first, name = next(node for node in graph if node in readers), value.name or ""
        array = _half(value, precision)
        cast = insert(graph, first, "Cast", [value], f"{name}_float", to=int(ir.DataType.FLOAT))
        ir.convenience.replace_all_uses_with(value, cast)
        first_cast = cast.producer()
        assert first_cast is not None
        first_cast.replace_input_with(0, value)
        _store(value, array)


def check_fp16(model: ir.Model) -> None:
    """Raise OnnxError naming a float weight that FP16 cannot hold."""
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None and value.const_value.size > 1:
            _half(value, "fp16")


def _half(value: ir.Value, precision: str, at_least: float | None = None) -> np.ndarray:
    assert value.const_value is not None
    array = value.const_value.numpy()
    if precision == "fp16":
        largest = float(np.abs(array).max(initial=0.0))
        if largest > LARGEST_FP16:
            raise OnnxError(f"weight '{value.name}': largest |w| is {largest:.6g}, but FP16 ends at "
                            f"{LARGEST_FP16:.0f}; use bf16, or remove the outlier")
    return (array if at_least is None else np.maximum(array, np.float32(at_least))).astype(HALF[precision][0])


def _store(value: ir.Value, array: np.ndarray) -> None:
    kind = next(kind for dtype, kind in HALF.values() if dtype == array.dtype)
    value.const_value = ir.Tensor(array, dtype=kind, name=value.name)
    value.type = ir.TensorType(kind)


def _retarget(node: ir.Node, kind: ir.DataType) -> None:
    """A node that makes FP32 by attribute makes half instead."""
    to = node.attributes.get("to")
    if node.op_type == "Cast" and to is not None and to.as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(kind))
    filler = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (filler is None or filler.as_tensor().dtype == ir.DataType.FLOAT):
        array = filler.as_tensor().numpy() if filler is not None else np.zeros(1, np.float32)
        dtype = next(dtype for dtype, found in HALF.values() if found == kind)
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array.astype(dtype), dtype=kind))


def _cast_input(graph: ir.Graph, value: ir.Value, kind: ir.DataType) -> None:
    readers = {use.node for use in value.uses()}
    first = next((node for node in graph if node in readers), None)
    cast = insert(graph, first, "Cast", [value], f"{value.name}_half", to=int(kind))
    for node in readers:
        for position, found in enumerate(node.inputs):
            if found is value:
                node.replace_input_with(position, cast)


def _cast_around(graph: ir.Graph, node: ir.Node, kind: ir.DataType) -> None:
    entry, output = node.inputs[0], node.outputs[0]
    assert entry is not None
    node.replace_input_with(0, insert(graph, node, "Cast", [entry], f"{entry.name}_float", to=int(ir.DataType.FLOAT)))
    readers = list(output.uses())
    first = next(each for each in graph if any(each is use.node for use in readers))
    cast = insert(graph, first, "Cast", [output], f"{output.name}_half", to=int(kind))
    for use in readers:
        use.node.replace_input_with(use.idx, cast)


def _cast_output(graph: ir.Graph, position: int, value: ir.Value, kind: ir.DataType) -> None:
    name = value.name or "output"
    shape = value.shape
    value.name = unused_name(graph, f"{name}_half")
    value.type, value.shape = None, None
    cast = insert(graph, None, "Cast", [value], name, to=int(ir.DataType.FLOAT))
    cast.type, cast.shape = ir.TensorType(ir.DataType.FLOAT), shape
    graph.outputs[position] = cast

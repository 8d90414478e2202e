"""PyTorch module, float ONNX node and quantized ONNX node of the same layer, matched by the name of the weight.

A quantized file keeps the float file's tensor names; its weights become codes, and pairs of QuantizeLinear and
DequantizeLinear come before some inputs. Whatever is between the codes and the layer (scales, blocks, casts, reshapes)
is computed by ONNX Runtime, so every format that it reads is understood, and a wrong scale in the file is seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.errors import OnnxError
from toolchain.graph.edit import constant
from toolchain.graph.layers import LAYER_OPS, Layer, channel_axis, layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.stored import constants, decoded
from toolchain.graph.widen import HALF, widen

FUSED = ("Relu", "Clip", "Add")  # what runtimes compute inside the layer's kernel
CODES = {ir.DataType.INT4: "int4", ir.DataType.INT8: "int8", ir.DataType.FLOAT8E4M3FN: "fp8"}


@dataclass(frozen=True)
class Grid:
    """The pair on one activation as it stands in the file: scale, and zero_point in the type of the codes (0-d)."""

    scale: float
    zero_point: np.ndarray
    kind: ir.DataType


@dataclass(frozen=True)
class Read:
    """An input that takes dequantized values: the node by its first output's name, the position, and the tensor."""

    node: str
    position: int
    tensor: str


@dataclass
class Aligned:
    """One layer in all its forms; layers that share a weight are one.

    nodes, quantized_nodes: of the two ONNX files. boundary: the tensor after what is fused with it, named alike in
    both. axis: of the float weight's output channels. weight: as the quantized file dequantizes it, in the float
    weight's layout; None: it stayed float. scales: of its codes, as stored. reads, grids: where values are rounded on
    its account, and how, by tensor.
    """

    name: str
    op: str
    macs: int | None
    weight_name: str
    float_weight: np.ndarray
    axis: int
    nodes: list[str] = field(default_factory=list)
    quantized_nodes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    boundary: str = ""
    precision: str = "float"
    weight: np.ndarray | None = None
    scales: np.ndarray | None = None
    reads: list[Read] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether anything is rounded on its account."""
        return self.weight is not None or bool(self.reads)


def align(float_onnx: Path, quantized_onnx: Path) -> list[Aligned]:
    """The layers of both files in the order they run. Raises OnnxError when they are not the same network."""
    model, quantized = read_onnx(float_onnx), readable(quantized_onnx)
    passes.ShapeInferencePass()(model)
    found: dict[str, Aligned] = {}
    for layer in layers(model.graph):
        one = found.setdefault(layer.weight.name or layer.name, _started(layer))
        one.nodes.append(layer.node.name or "")
        one.inputs.append(layer.input.name or "")
        one.boundary = _boundary(layer.node.outputs[0])
    _take_weights(quantized, quantized_onnx, found)
    _take_reads(model.graph, quantized.graph, list(found.values()))
    return list(found.values())


def readable(path: Path) -> ir.Model:
    """The file as a CPU computes it node by node: one that computes in half is widened, its roundings kept."""
    model = read_onnx(path)
    if any(value.dtype in HALF for value in model.graph.initializers.values()):
        widen(model)
    return model


def computes_in_half(path: Path) -> bool:
    """Whether `readable` widens the file: ONNX Runtime's optimised CPU kernels give wrong numbers for such graphs."""
    return any(value.dtype in HALF for value in read_onnx(path).graph.initializers.values())


def source_of(value: ir.Value | None) -> tuple[ir.Value | None, ir.Node | None]:
    """The tensor behind a pair of Q and DQ, and the DQ; the tensor behind Casts and None where there is no pair."""
    behind = _uncast(value)
    dequantize = behind.producer() if behind is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return behind, None
    quantize = dequantize.inputs[0].producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return behind, None
    return _uncast(quantize.inputs[0]), dequantize


def _uncast(value: ir.Value | None) -> ir.Value | None:
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type == "Cast":
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return value


def _started(layer: Layer) -> Aligned:
    return Aligned(layer.name, layer.op, layer.macs, layer.weight.name or "", layer.array, layer.axis)


def _boundary(value: ir.Value) -> str:
    """The tensor after the activation and the residual Add that a runtime fuses with the layer."""
    while len(uses := list(value.uses())) == 1 and uses[0].node.op_type in FUSED:
        value = uses[0].node.outputs[0]
    return value.name or ""


def _take_weights(quantized: ir.Model, path: Path, found: Mapping[str, Aligned]) -> None:
    """Fill in each layer's node, precision and dequantized weight."""
    operands: dict[str, tuple[Aligned, int]] = {}
    for node in quantized.graph:
        if node.op_type not in LAYER_OPS or node.inputs[1] is None:
            continue
        stored = constants(node.inputs[1])[1]
        one = next((found[name] for name in map(_float_name, stored) if name in found), None)
        if one is None:
            continue
        one.quantized_nodes.append(node.name or "")
        kinds = [CODES[value.dtype] for value in stored if value.dtype in CODES]
        if kinds:
            weight_only = kinds[0] == "int8" and source_of(node.inputs[0])[1] is None
            one.precision = "int8_weight_only" if weight_only else kinds[0]
            one.scales = next((constant(value) for value in stored if value.dtype in (ir.DataType.FLOAT, *HALF)), None)
            operands[node.inputs[1].name or ""] = one, channel_axis(node)
    if missing := [one.name for one in found.values() if not one.quantized_nodes]:
        raise OnnxError(f"{path}: lacks layer {', '.join(missing[:3])} of the float network; expected a file made from "
                        "it; build again")
    for name, array in decoded(quantized, list(operands)).items():
        one, axis = operands[name]
        array = array.T if array.ndim == 2 and axis != one.axis else array
        if array.shape != one.float_weight.shape:
            raise OnnxError(f"{path}: layer {one.name} has weights {array.shape}, the float network "
                            f"{one.float_weight.shape}; expected a file made from it; build again")
        one.weight = np.ascontiguousarray(array, np.float32)


def _float_name(stored: ir.Value) -> str:
    return re.sub(r"_codes(_\d+)?$", "", stored.name or "")


def _take_reads(graph: ir.Graph, quantized: ir.Graph, found: Sequence[Aligned]) -> None:
    """Hand every pair of the quantized file to one layer.

    A layer answers for the pair on its own input. What only residual Adds, pools and Concats read goes to the layer
    that reads the same tensor, else to the one that made it.
    """
    by_node = {name: one for one in found for name in one.quantized_nodes}
    readers: dict[str, Aligned] = {}
    others: list[tuple[Read, Grid]] = []
    for node in quantized:
        for position, value in enumerate(node.inputs):
            source, dequantize = source_of(value)
            if dequantize is None or source is None or node.op_type in ("Cast", "QuantizeLinear"):
                continue
            read, grid = Read(node.outputs[0].name or "", position, source.name or ""), _grid(dequantize)
            one = by_node.get(node.name or "")
            if one is None:
                others.append((read, grid))
                continue
            readers.setdefault(read.tensor, one)
            one.grids[read.tensor] = grid
    makers = _makers(graph, found)
    for read, grid in others:
        one = readers.get(read.tensor) or makers.get(read.tensor)
        if one is not None:
            one.reads.append(read)
            one.grids[read.tensor] = grid


def _grid(dequantize: ir.Node) -> Grid:
    scale, zero = constant(dequantize.inputs[1]), constant(dequantize.inputs[2] if len(dequantize.inputs) > 2 else None)
    assert scale is not None
    kind = dequantize.inputs[2].dtype if zero is not None and dequantize.inputs[2] is not None else ir.DataType.UINT8
    return Grid(float(scale.astype(np.float32).reshape(-1)[0]), np.array(0, np.uint8) if zero is None else zero,
                kind or ir.DataType.UINT8)


def _makers(graph: ir.Graph, found: Sequence[Aligned]) -> dict[str, Aligned]:
    """Tensor -> the last layer on the way to it."""
    by_node = {name: one for one in found for name in one.nodes}
    place = {id(one): index for index, one in enumerate(found)}
    made: dict[str, Aligned] = {}
    for node in graph:
        behind = [made[value.name] for value in node.inputs if value is not None and value.name in made]
        one = by_node.get(node.name or "") or max(behind, key=lambda each: place[id(each)], default=None)
        if one is not None:
            made.update({value.name or "": one for value in node.outputs})
    return made

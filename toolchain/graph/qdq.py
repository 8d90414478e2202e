"""INT8: weights stored as INT8 codes, Q/DQ pairs on activations, placed where the target's rules say.

Symmetric quantization (Jacob et al. 2018; NVIDIA's INT8 paper, Wu et al. 2020): scale = amax / 127,
code = clip(round_half_even(x / scale), lowest, highest), one scale per output channel for weights, whose codes are
-127 to 127, and one per tensor for activations, whose codes are all those of their type: QuantizeLinear reaches -128.
Biases stay float: every runtime we build for rounds them itself where it wants integers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError
from toolchain.graph.clean import drop_unused
from toolchain.graph.edit import add_initializer, constant, insert, replace_node
from toolchain.graph.layers import LAYER_OPS, MOVED_PAST, Layer, chosen_layers, handed_on, layers
from toolchain.graph.rules import Rules
from toolchain.ranges import ActivationRange, Ranges

SMALLEST_SCALE = 1e-7  # below it an FP16 scale would be 0
LARGEST_E4M3 = 448.0
FLOATS = {"fp32": np.float32, "fp16": np.float16}


def quantize_int8(
    model: ir.Model, rules: Rules, ranges: Ranges, first_last: str, only: Collection[str] | None = None,
    keep_float: Collection[str] = (), between: Sequence[ir.Node] | None = None,
) -> set[str]:
    """Quantize every layer of a clean float `model` (first and last too unless `first_last` is "float").

    keep_float: names of layers to leave alone. only: names of the layers to quantize; None: all. between: the residual
    Adds, pools and Concats to quantize too; None: all of them, or with `only` nothing beside the layers' own inputs.
    Returns the names of the quantized layers. Raises OnnxError when `ranges` lacks one of their inputs, or
    `keep_float` names no layer.
    """
    chosen = chosen_layers(model.graph, first_last, keep_float, only)
    scale_type = FLOATS[rules.int8_float]
    activations = Activations(model.graph, rules, ranges, scale_type)
    check_ranges(chosen, ranges)
    alone = only is not None and between is None
    asked = () if alone else model.graph if between is None else between
    joins = [node for node in asked if _joined_inputs(node, rules)]
    for node in joins:
        for position in _joined_inputs(node, rules):
            activations.quantize(node, position)
    weights: dict[str, ir.Value] = {}
    for layer in chosen:
        activations.quantize(layer.node, 0)
        store_int8_weight(model.graph, layer, rules, ranges.weights.get(layer.weight.name or ""), weights)
    for node in [*joins, *(layer.node for layer in chosen if layer.op == "Conv")]:
        if rules.integer_results and not alone:
            activations.quantize_result(node)
    for layer in layers(model.graph) if rules.integer_results and not alone else ():
        keep_in_float(model.graph, layer)
    for layer in chosen if rules.bias_after_gemm else ():
        add_bias_after(model.graph, layer)
    drop_unused(model)
    return {layer.name for layer in chosen}


def check_ranges(chosen: Sequence[Layer], ranges: Ranges) -> None:
    """Raise OnnxError for a layer whose input has no calibrated range."""
    for layer in chosen:
        if layer.input.name not in ranges.activations:
            raise OnnxError(f"layer {layer.name}: no calibrated range for its input '{layer.input.name}'; "
                            "expected one for every layer; calibrate on this very ONNX file")


def weight_codes(weight: np.ndarray, amax: Sequence[float] | None, axis: int, scale_type: type
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Codes (int8, the weight's shape) and scales (channels,) of `scale_type`; a channel of zeros has scale 1.

    amax: per output channel, learned; None: the largest |w| of each.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    found = np.abs(weight).max(axis=others) if amax is None else np.asarray(amax, np.float32)
    scale: np.ndarray = np.where(found > 0, np.maximum(found / np.float32(127), SMALLEST_SCALE), 1.0).astype(scale_type)
    spread = scale.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(np.rint(weight / spread), -127, 127).astype(np.int8), scale


def store_int8_weight(graph: ir.Graph, layer: Layer, rules: Rules, amax: Sequence[float] | None,
                      stored: dict[str, ir.Value]) -> None:
    """Replace the layer's weight by INT8 codes and a DequantizeLinear; `stored` shares it between layers."""
    name = layer.weight.name or layer.name
    if amax is not None and len(amax) != layer.array.shape[layer.axis]:
        raise OnnxError(f"layer {layer.name}: {len(amax)} learned weight ranges for {layer.array.shape[layer.axis]} "
                        "output channels; the ranges belong to another network")
    key = f"{layer.axis} {name}"  # a weight may serve one layer as it is, and transposed another
    if key not in stored:
        codes, scale = weight_codes(layer.array, amax, layer.axis, FLOATS[rules.int8_float])
        stored[key] = decoded_codes(graph, layer, rules, codes, scale)
    layer.node.replace_input_with(1, stored[key])


def decoded_codes(graph: ir.Graph, layer: Layer, rules: Rules, codes: np.ndarray, scale: np.ndarray) -> ir.Value:
    """Add INT8 codes, their scales, the zeros that some want as zero_point, and the DequantizeLinear that reads them.

    Without zero_point it is 0, and the codes say their type; a QuantizeLinear without one would make uint8.
    """
    name = layer.weight.name or layer.name
    parts = [add_initializer(graph, f"{name}_codes", codes), add_initializer(graph, f"{name}_scale", scale)]
    if not (rules.lean and layer.op == "Conv"):
        parts.append(add_initializer(graph, f"{name}_zero_point", np.zeros(scale.shape, np.int8)))
    return insert(graph, layer.node, "DequantizeLinear", [*parts], f"{name}_dequantized", axis=layer.axis)


def add_bias_after(graph: ir.Graph, layer: Layer) -> None:
    """Gemm(x, w, bias) -> Gemm(x, w) + bias, where the result stays float (no Q follows, as in the last layer)."""
    node, output = layer.node, layer.node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if layer.op != "Gemm" or bias is None or _is_requantized(output):
        return
    product = insert(graph, node, "Gemm", list(node.inputs[:2]), f"{output.name}_without_bias", transB=1 - layer.axis)
    replace_node(graph, node, insert(graph, node, "Add", [product, bias], f"{output.name}_sum"))


def keep_in_float(graph: ir.Graph, layer: Layer) -> None:
    """Part a float layer between DequantizeLinear and QuantizeLinear from the former, by a Clip that clips nothing.

    ONNX Runtime would round its weights to INT8 itself, one scale for all channels, and compute in integers.
    """
    maker = layer.input.producer()
    if maker is None or maker.op_type != "DequantizeLinear" or not _is_requantized(layer.node.outputs[0], MOVED_PAST):
        return
    name, smallest = layer.input.name, np.array(np.finfo(np.float32).min, np.float32)
    lowest = add_initializer(graph, f"{name}_lowest", smallest)
    layer.node.replace_input_with(0, insert(graph, layer.node, "Clip", [layer.input, lowest], f"{name}_float"))


@dataclass
class Activations:
    """Puts one Q/DQ pair on a tensor, however many consumers ask for it."""

    graph: ir.Graph
    rules: Rules
    ranges: Ranges
    scale_type: type
    done: dict[str, ir.Value] = field(default_factory=dict)

    def quantize(self, node: ir.Node, position: int) -> None:
        """Let `node` read the dequantized form of its input. Without a range (not a float tensor) nothing changes."""
        value = node.inputs[position]
        name = value.name if value is not None else None
        if value is None or name not in self.ranges.activations:
            return
        if name not in self.done:
            self.done[name] = self._pair(value, name)
        node.replace_input_with(position, self.done[name])

    def quantize_result(self, node: ir.Node) -> None:
        """Let whatever reads the node's result, behind its activation, read codes: else it computes in float."""
        value = handed_on(node)
        for use in list(value.uses()) if value else ():
            if use.node.op_type != "QuantizeLinear":
                self.quantize(use.node, use.idx)

    def _pair(self, value: ir.Value, name: str) -> ir.Value:
        scale, zero_point = code_grid(self.ranges.activations[name], self.rules.activations, clip_of(value))
        first = _first_consumer(self.graph, value)
        grid = [add_initializer(self.graph, f"{name}_scale", np.asarray(scale, self.scale_type)),
                add_initializer(self.graph, f"{name}_zero_point", zero_point)]
        codes = insert(self.graph, first, "QuantizeLinear", [value, *grid], f"{name}_quantized")
        return insert(self.graph, first, "DequantizeLinear", [codes, *grid], f"{name}_dequantized")


def code_grid(found: ActivationRange, form: str, upper: float | None) -> tuple[float, np.ndarray]:
    """Scale and zero_point (a 0-d array of the codes' type) for one tensor.

    A tensor that is never negative has 255 codes above zero_point in "u8" and "s8_shifted", 127 in "s8". Where training
    clipped at amax they end there too, twice as fine; else they go on to twice amax, on the scale of "s8".
    upper: the tensor is the output of Clip(0, upper). For codes of "u8" and "s8_shifted" a grid that ends at or below
    `upper` does the clipping itself, so the runtime drops the Clip; upper / 255 is also the finer scale whenever it is
    chosen.
    """
    if form == "e4m3":
        largest = max(-found.min, found.max)
        scale = max(largest / LARGEST_E4M3, SMALLEST_SCALE) if largest > 0 else 1.0
        return scale, np.array(0, ml_dtypes.float8_e4m3fn)
    scale = max(found.amax / 127, SMALLEST_SCALE) if found.amax > 0 else 1.0
    if form == "s8":
        return scale, np.array(0, np.int8)
    shifted = form == "s8_shifted"
    if found.min < 0:
        return scale, np.array(0, np.int8) if shifted else np.array(128, np.uint8)
    if found.clips and found.amax > 0:
        scale = max(found.amax / 255, SMALLEST_SCALE)
    if upper is not None and scale * 255 >= upper:  # where they are equal, FP32 may round the scale up
        scale = float(np.nextafter(np.float32(upper / 255), np.float32(0)))
    return scale, np.array(-128, np.int8) if shifted else np.array(0, np.uint8)


def clip_of(value: ir.Value) -> float | None:
    """The upper bound when `value` comes out of Clip(0, upper > 0); None otherwise."""
    clip = value.producer()
    if clip is None or clip.op_type != "Clip" or len(clip.inputs) < 3:
        return None
    low, high = constant(clip.inputs[1]), constant(clip.inputs[2])
    return float(high.item()) if low is not None and high is not None and low.item() == 0 < high.item() else None


def _is_requantized(value: ir.Value, past: Collection[str] = ("Relu", "Clip")) -> bool:
    """A QuantizeLinear reads the value, directly or behind nodes of kinds that integers can take over."""
    readers = [use.node for use in value.uses()]
    return any(reader.op_type == "QuantizeLinear" or reader.op_type in past and _is_requantized(reader.outputs[0], past)
               for reader in readers)


def _joined_inputs(node: ir.Node, rules: Rules) -> list[int]:
    """Positions whose activation carries Q/DQ in an Add of two activations, a pool or a Concat; [] of other nodes."""
    if node.op_type not in (*rules.quantized_inputs, "Add"):
        return []
    live = [i for i, value in enumerate(node.inputs) if value is not None and constant(value) is None]
    if node.op_type != "Add":
        return live if node.op_type == "Concat" else live[:1]
    if len(live) < 2 or node.inputs[0] is node.inputs[1]:
        return []
    fused = [i for i in live if _ends_in_layer(node.inputs[i])]
    return live if rules.adds == "both" or not fused else [i for i in live if i != _later(node, fused)]


def _ends_in_layer(value: ir.Value | None) -> bool:
    """Only this Add reads it and a layer made it, so a runtime can add inside that layer's kernel."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in LAYER_OPS and len(value.uses()) == 1  # type: ignore[union-attr]


def _later(node: ir.Node, positions: list[int]) -> int:
    """Of two branches that both end in a layer, the longer one is the trunk; the other is the shortcut."""
    return max(positions, key=lambda i: _depth(node.inputs[i]))


def _depth(value: ir.Value | None) -> int:
    """Number of nodes on the way back to where the value's chain of single-consumer tensors starts."""
    depth, producer = 0, value.producer() if value is not None else None
    while producer is not None and producer.inputs and producer.inputs[0] is not None:
        depth, value = depth + 1, producer.inputs[0]
        producer = value.producer() if len(value.uses()) == 1 else None
    return depth


def _first_consumer(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """The earliest node that reads `value`: the pair goes right before it, so the graph stays in order."""
    readers = {use.node for use in value.uses()}
    return next(node for node in graph if node in readers)

"""INT4, weight-only: two codes per byte and one scale per block along the input axis.

Symmetric (zero_point 0): scale = amax / 7 of the block, code = clip(round_half_even(w / scale), -8, 7). Activations
stay float, so this saves memory, not arithmetic. At block 32 a weight costs 4.5 bits with FP16 scales, 5 with FP32.

A convolution's weight is stored as (O, I * kh * kw), blocked along axis 1, and reshaped (TensorRT takes no block on
axis 1 of four). A linear layer's is stored as (K, N), blocked along axis 0, before a MatMul, which ONNX Runtime fuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError
from toolchain.graph.clean import drop_unused
from toolchain.graph.edit import add_initializer, constant, insert, replace_node
from toolchain.graph.int8_weights import cast_and_scale, channel_amax, store_int8
from toolchain.graph.layers import Layer, chosen_layers
from toolchain.graph.qdq import FLOATS, SMALLEST_SCALE
from toolchain.graph.rules import Rules

FEWEST_INPUTS = 16  # a depthwise 3x3 has 9: four bits ruin it and a scale per nine weights saves little
FUSED_BLOCKS = (16, 32, 64, 128, 256)  # what ONNX Runtime's MatMulNBits reads


def quantize_int4(
    model: ir.Model, rules: Rules, block: int, first_last: str, only: Collection[str] | None = None,
    weights: Mapping[str, Sequence[float]] | None = None, keep_float: Collection[str] = (),
    blocks: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> dict[str, str]:
    """Store the weights of a clean float `model` in INT4 (first and last too unless `first_last` is "float").

    only: names of the layers to change; None: all. keep_float: names of layers to leave alone. weights: initializer
    name -> amax per output channel, which all its blocks share instead of each having its own. blocks: initializer
    name -> amax per output channel and block, as learned in training. Layers with fewer than 16 weights per output
    (depthwise) get INT8 weights, per channel. Returns layer name -> "int4" or "int8_weight_only". Raises OnnxError when
    `weights` or `blocks` are of another shape, or `keep_float` names no layer.
    """
    scale_type, done, stored = FLOATS[rules.int4_float], dict[str, str](), dict[str, ir.Value]()
    for layer in chosen_layers(model.graph, first_last, keep_float, only):
        small = layer.array.size // layer.array.shape[layer.axis] < FEWEST_INPUTS
        done[layer.name] = "int8_weight_only" if small else "int4"
        key = f"{layer.op} {layer.axis} {layer.weight.name}"
        if key not in stored:
            amax = channel_amax(layer, weights or {})
            if small and amax is not None:
                amax = amax * np.float32(127 / 7)  # 127 steps of the same scale
            if blocks and (learned := blocks.get(layer.weight.name or "")):
                amax = _block_amax(layer, learned, block, small)
            stored[key] = store_int8(model.graph, layer, rules, amax) if small else _store_int4(
                model.graph, layer, rules, scale_type, block, amax)
        layer.node.replace_input_with(1, stored[key])
        if layer.op == "Gemm" and not small:
            _gemm_to_matmul(model.graph, layer, rules)
    drop_unused(model)
    return done


def block_length(inputs: int, block: int) -> int:
    """Weights per scale: `block` where it divides `inputs`, else the divisor nearest to it (from block / 2 to 2 block).

    TensorRT takes whole blocks only. Without such a divisor, or with fewer inputs than a block: one scale for all.
    """
    if inputs <= block:
        return inputs
    divisors = [n for n in range(block // 2, 2 * block + 1) if inputs % n == 0]
    return min(divisors, key=lambda n: (abs(n - block), -n), default=inputs)


def _block_amax(layer: Layer, found: Sequence[Sequence[float]], block: int, small: bool) -> np.ndarray:
    """Learned amax, float32: (channels, blocks), or (channels,) where the weights are stored as INT8."""
    channels = layer.array.shape[layer.axis]
    inputs = layer.array.size // channels
    count = 1 if small else inputs // block_length(inputs, block)
    if len(found) != channels or {len(row) for row in found} != {count}:
        raise OnnxError(f"layer {layer.name}: learned ranges for {len(found)} output channels in {len(found[0])} "
                        f"blocks each, expected {channels} in {count}; they belong to another network or int4.block")
    amax = np.asarray(found, np.float32)
    return amax[:, 0] if small else amax


def int4_codes(weight: np.ndarray, block: int, scale_type: type, known: np.ndarray | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
    """weight (rows, inputs) float32 -> codes (rows, inputs) int4, scales (rows, inputs / block); zeros have scale 1.

    known: amax (rows, blocks), or (rows,) for all blocks of a row, instead of each block's largest |w|.
    """
    blocks = weight.reshape(len(weight), -1, block)
    if known is None:
        amax = np.abs(blocks).max(axis=2)
    else:
        amax = known if known.ndim == 2 else np.repeat(known[:, None], blocks.shape[1], axis=1)
    scale: np.ndarray = np.where(amax > 0, np.maximum(amax / np.float32(7), SMALLEST_SCALE), 1.0).astype(scale_type)
    codes = np.clip(np.rint(blocks / scale.astype(np.float32)[:, :, None]), -8, 7)
    return codes.reshape(weight.shape).astype(ml_dtypes.int4), scale


def _store_int4(graph: ir.Graph, layer: Layer, rules: Rules, scale_type: type, block: int, amax: np.ndarray | None
                ) -> ir.Value:
    """Add codes, scales and the nodes that make a float weight of them: (O, I, kh, kw), or (K, N) for a MatMul."""
    weight, name = layer.array, layer.weight.name or layer.name
    rows = weight.reshape(len(weight), -1) if layer.axis == 0 else weight.T
    length = block_length(rows.shape[1], block)
    codes, scale = int4_codes(rows, length, scale_type, amax)
    convolution, fused = layer.op == "Conv", layer.op != "Conv" and length in FUSED_BLOCKS
    if rules.decode == "cast" and not fused:
        shape = weight.shape if convolution else rows.shape
        parts = [codes.reshape(*scale.shape, length), scale[:, :, None]]
        value = _reshaped(graph, layer, cast_and_scale(graph, layer, parts[0], parts[1]), shape)
        return value if convolution else insert(graph, layer.node, "Transpose", [value], f"{name}_columns", perm=[1, 0])
    if not convolution:
        codes, scale = codes.T, scale.T
    stored = [add_initializer(graph, f"{name}_codes", codes), add_initializer(graph, f"{name}_scale", scale)]
    value = insert(graph, layer.node, "DequantizeLinear", [*stored], f"{name}_dequantized",
                   axis=int(convolution), block_size=length)
    return _reshaped(graph, layer, value, weight.shape) if convolution else value


def _reshaped(graph: ir.Graph, layer: Layer, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    name = layer.weight.name or layer.name
    target = add_initializer(graph, f"{name}_shape", np.array(shape, np.int64))
    return insert(graph, layer.node, "Reshape", [value, target], f"{name}_reshaped")


def _gemm_to_matmul(graph: ir.Graph, layer: Layer, rules: Rules) -> None:
    """Gemm(x, w, bias) -> MatMul(x, w) + bias, or - (-bias) where ONNX Runtime would turn the sum back into a Gemm and
    fuse it with the activation that follows, out of MatMulNBits' reach. Both are exact."""
    node, output = layer.node, layer.node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stored, subtract = constant(bias), rules.decode == "cast" and not output.is_graph_output()
    result = insert(graph, node, "MatMul", [node.inputs[0], node.inputs[1]], f"{output.name}_without_bias")
    if subtract and stored is not None and bias is not None:
        negated = add_initializer(graph, f"{bias.name}_negated", -stored)
        result = insert(graph, node, "Sub", [result, negated], f"{output.name}_sum")
    elif bias is not None:
        result = insert(graph, node, "Add", [result, bias], f"{output.name}_sum")
    replace_node(graph, node, result)

"""INT8, weight-only: one code per weight and one scale per output channel; activations stay float.

Symmetric: scale = amax / 127, code = clip(round_half_even(w / scale), -127, 127). It saves memory, not arithmetic: the
weight is made float again before the layer runs, by DequantizeLinear or by plain arithmetic that a runtime folds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError
from toolchain.graph.clean import drop_unused
from toolchain.graph.edit import add_initializer, insert
from toolchain.graph.layers import Layer, chosen_layers
from toolchain.graph.qdq import FLOATS, decoded_codes, weight_codes
from toolchain.graph.rules import Rules


def quantize_int8_weights(
    model: ir.Model, rules: Rules, first_last: str, only: Collection[str] | None = None,
    weights: Mapping[str, Sequence[float]] | None = None, keep_float: Collection[str] = (),
) -> dict[str, str]:
    """Store the weights of a clean float `model` in INT8 (first and last too unless `first_last` is "float").

    only: names of the layers to change; None: all. keep_float: names of layers to leave alone. weights: initializer
    name -> amax per output channel; one without it uses its largest |w|. Returns layer name -> "int8_weight_only".
    Raises OnnxError when `weights` has another number of channels, or `keep_float` names no layer.
    """
    chosen, stored = chosen_layers(model.graph, first_last, keep_float, only), dict[str, ir.Value]()
    for layer in chosen:
        key = f"{layer.axis} {layer.weight.name}"  # a weight may serve one layer as it is, and transposed another
        if key not in stored:
            stored[key] = store_int8(model.graph, layer, rules, channel_amax(layer, weights or {}))
        layer.node.replace_input_with(1, stored[key])
    drop_unused(model)
    return {layer.name: "int8_weight_only" for layer in chosen}


def channel_amax(layer: Layer, weights: Mapping[str, Sequence[float]]) -> np.ndarray | None:
    """amax per output channel, float32 (channels,), where `weights` names the layer's; None: found from the weights."""
    found, channels = weights.get(layer.weight.name or ""), layer.array.shape[layer.axis]
    if found is None:
        return None
    if len(found) != channels:
        raise OnnxError(f"layer {layer.name}: {len(found)} weight ranges for {channels} output channels; the ranges "
                        "belong to another network")
    return np.asarray(found, np.float32)


def store_int8(graph: ir.Graph, layer: Layer, rules: Rules, amax: np.ndarray | None) -> ir.Value:
    """Add codes, scales and the nodes that make the layer's float weight of them, which is returned.

    amax: per output channel (channels,); None: the largest |w| of each.
    """
    weight, scale_type = layer.array, FLOATS[rules.int4_float]
    codes, scale = weight_codes(weight, None if amax is None else amax.tolist(), layer.axis, scale_type)
    if rules.decode == "cast":
        spread = scale.reshape([-1 if i == layer.axis else 1 for i in range(weight.ndim)])
        return cast_and_scale(graph, layer, codes, spread)
    return decoded_codes(graph, layer, rules, codes, scale)


def cast_and_scale(graph: ir.Graph, layer: Layer, codes: np.ndarray, scale: np.ndarray) -> ir.Value:
    """float(codes) * scale: plain arithmetic on constants, which a runtime folds once at load."""
    name = layer.weight.name or layer.name
    kind = ir.DataType.FLOAT16 if scale.dtype == np.float16 else ir.DataType.FLOAT
    stored, scales = add_initializer(graph, f"{name}_codes", codes), add_initializer(graph, f"{name}_scale", scale)
    cast = insert(graph, layer.node, "Cast", [stored], f"{name}_cast", to=int(kind))
    return insert(graph, layer.node, "Mul", [cast, scales], f"{name}_dequantized")

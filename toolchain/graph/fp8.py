"""FP8 (E4M3), weights and activations: codes of four exponent and three fraction bits, without infinities.

scale = amax / 448, code = E4M3(clip(x / scale, -448, 448)), rounded to nearest even; one scale per output channel for
weights, one per tensor for activations (Micikevicius et al. 2022, arXiv:2209.05433). Its steps grow with the value, so
clipping gains nothing for the small values: amax is the largest magnitude seen, whatever the calibrator. Only GPUs
have it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod

import ml_dtypes
import numpy as np
import onnx_ir as ir

from toolchain.errors import OnnxError
from toolchain.graph.clean import drop_unused
from toolchain.graph.edit import add_initializer, insert
from toolchain.graph.layers import Layer, chosen_layers
from toolchain.graph.qdq import FLOATS, LARGEST_E4M3, SMALLEST_SCALE, Activations, check_ranges
from toolchain.graph.rules import Rules
from toolchain.ranges import Ranges

# TensorRT has FP8 kernels for convolutions of at least so many channels on either side, of at most so many taps
FEWEST_CHANNELS = 16
MOST_TAPS = 32


def quantize_fp8(
    model: ir.Model, rules: Rules, ranges: Ranges, first_last: str, only: Collection[str] | None = None,
    keep_float: Collection[str] = (),
) -> dict[str, str]:
    """Quantize every layer that has FP8 kernels (first and last too unless `first_last` is "float").

    Convolutions with fewer than 16 channels (depthwise ones, mostly the first) or more than 32 taps stay float. only:
    names of the layers to choose from; None: all. keep_float: names of layers to leave alone. Returns layer name ->
    "fp8". Raises OnnxError when the target has no FP8, `ranges` lacks an input, or `keep_float` names no layer.
    """
    if rules.fp8_float is None:
        raise OnnxError("fp8: this target has no FP8 arithmetic; use int8, or runtime tensorrt_rtx or tensorrt")
    chosen = [layer for layer in chosen_layers(model.graph, first_last, keep_float, only) if has_kernels(layer)]
    check_ranges(chosen, ranges)
    scale_type = FLOATS[rules.fp8_float]
    activations = Activations(model.graph, replace(rules, activations="e4m3"), ranges, scale_type)
    stored: dict[str, ir.Value] = {}
    for layer in chosen:
        activations.quantize(layer.node, 0)
        key = f"{layer.axis} {layer.weight.name}"
        if key not in stored:
            stored[key] = _store(model.graph, layer, ranges.weights.get(layer.weight.name or ""), scale_type)
        layer.node.replace_input_with(1, stored[key])
    drop_unused(model)
    return {layer.name: "fp8" for layer in chosen}


def has_kernels(layer: Layer) -> bool:
    """Whether TensorRT computes this layer in FP8; it says nothing where it does not."""
    outputs, inputs, *taps = layer.array.shape
    return layer.op != "Conv" or (min(outputs, inputs) >= FEWEST_CHANNELS and prod(taps) <= MOST_TAPS)


def fp8_codes(weight: np.ndarray, amax: Sequence[float] | None, axis: int, scale_type: type
              ) -> tuple[np.ndarray, np.ndarray]:
    """Codes (E4M3, the weight's shape) and scales (channels,) of `scale_type`; a channel of zeros has scale 1.

    amax: per output channel, learned; None: the largest |w| of each.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    found = np.abs(weight).max(axis=others) if amax is None else np.asarray(amax, np.float32)
    largest = np.float32(LARGEST_E4M3)
    scale: np.ndarray = np.where(found > 0, np.maximum(found / largest, SMALLEST_SCALE), 1.0).astype(scale_type)
    spread = scale.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(weight / spread, -largest, largest).astype(ml_dtypes.float8_e4m3fn), scale


def _store(graph: ir.Graph, layer: Layer, amax: Sequence[float] | None, scale_type: type) -> ir.Value:
    name = layer.weight.name or layer.name
    if amax is not None and len(amax) != layer.array.shape[layer.axis]:
        raise OnnxError(f"layer {layer.name}: {len(amax)} learned weight ranges for {layer.array.shape[layer.axis]} "
                        "output channels; the ranges belong to another network")
    codes, scale = fp8_codes(layer.array, amax, layer.axis, scale_type)
    parts = [add_initializer(graph, f"{name}_codes", codes), add_initializer(graph, f"{name}_scale", scale)]
    return insert(graph, layer.node, "DequantizeLinear", [*parts], f"{name}_dequantized", axis=layer.axis)

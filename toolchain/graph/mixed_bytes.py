"""What the weights of a mixed file take: layer by layer for every precision, and of a whole assignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx_ir as ir

from toolchain.graph.clean import clean
from toolchain.graph.edit import constant
from toolchain.graph.int4 import quantize_int4
from toolchain.graph.int8_weights import quantize_int8_weights
from toolchain.graph.layers import layers
from toolchain.graph.mixed import quantize_mixed, typed
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.qdq import quantize_int8
from toolchain.graph.rules import Rules
from toolchain.ranges import Ranges


def layer_bytes(onnx_path: Path, rules: Rules, ranges: Ranges, block: int, offered: Collection[str]
                ) -> dict[str, dict[str, int]]:
    """layer -> precision -> bytes that its weight and bias take in a file where a layer asks for FP16: codes, scales,
    zero points, and for INT8 the scale and zero point of its input.

    Layers that share a name count together. A tensor that feeds two INT8 layers is counted with both, and those of
    joins with none, so a whole file may differ from the sum by some bytes.
    """
    own, taken = typed(rules, ("fp16",)), dict[str, dict[str, int]]()
    stored = _stored(read_onnx(onnx_path).graph)
    for precision in offered:
        bias_width = 2 if precision == "fp16" or (rules.half == "compute" and precision != "fp32") else 4
        model = read_onnx(onnx_path)
        for name, (weights, biases) in stored.items():
            width = {"fp32": 4, "fp16": 2}.get(precision, 0)
            before = _bytes(model) - 4 * weights
            if precision == "int8":
                quantize_int8(model, own, ranges, "int8", {name})
            elif precision == "int8_weight_only":
                quantize_int8_weights(model, own, "int8", {name})
            elif precision == "int4":
                quantize_int4(model, own, block, "int4", {name})
            codes = width * weights if width else _bytes(model) - before
            taken.setdefault(name, {})[precision] = codes + bias_width * biases
    return taken


def mixed_bytes(onnx_path: Path, rules: Rules, ranges: Ranges, block: int, assignment: Mapping[str, str]) -> int:
    """Bytes of all weights in the file of this assignment, without writing it. Raises OnnxError as `quantize_mixed`."""
    model = read_onnx(onnx_path)
    quantize_mixed(model, rules, ranges, block, assignment)
    clean(model)
    return _bytes(model)


def _stored(graph: ir.Graph) -> dict[str, tuple[int, int]]:
    """layer -> values of its weight, and of its bias; each stored tensor is counted once."""
    found, seen = dict[str, tuple[int, int]](), set[ir.Value]()
    for layer in layers(graph):
        weights, biases = found.get(layer.name, (0, 0))
        for position, value in enumerate(layer.node.inputs[1:]):
            if value is not None and value not in seen and (array := constant(value)) is not None:
                weights, biases = (weights + array.size, biases) if position == 0 else (weights, biases + array.size)
                seen.add(value)
        found[layer.name] = weights, biases
    return found


def _bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)

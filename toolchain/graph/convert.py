"""A clean float ONNX file in, a file for one (precision, target) out: checked, compared with its source, described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.errors import OnnxError, nearest
from toolchain.graph.cast import check_fp16, compute_in_half, store_in_half
from toolchain.graph.circles import circles_freed
from toolchain.graph.clean import clean
from toolchain.graph.compare import gap, probe_images, run
from toolchain.graph.finite import check_weights
from toolchain.graph.fp8 import quantize_fp8
from toolchain.graph.int4 import quantize_int4
from toolchain.graph.int8_weights import quantize_int8_weights
from toolchain.graph.layers import chosen_layers, layers
from toolchain.graph.mixed import quantize_mixed
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.graph.qdq import quantize_int8
from toolchain.graph.rules import RULES, Rules
from toolchain.graph.storage import weight_bytes
from toolchain.ranges import Ranges
from toolchain.recipe.quantize import Int4, Int8


@dataclass(frozen=True)
class Given:
    """What a quantizer may need beside the network and the target's rules; what one does not need stays None."""

    ranges: Ranges | None
    int8: Int8
    int4: Int4
    assignment: Mapping[str, str] | None
    joins: bool = True


def _int8(model: ir.Model, rules: Rules, given: Given) -> dict[str, str]:
    if given.ranges is None:
        raise OnnxError("int8 needs ranges, found none; calibrate first")
    found = quantize_int8(model, rules, given.ranges, given.int8.first_last, keep_float=given.int8.keep_float)
    return dict.fromkeys(found, "int8")


def _fp8(model: ir.Model, rules: Rules, given: Given) -> dict[str, str]:
    if given.ranges is None:
        raise OnnxError("fp8 needs ranges, found none; calibrate first")
    return quantize_fp8(model, rules, given.ranges, given.int8.first_last, keep_float=given.int8.keep_float)


def _int8_weights(model: ir.Model, rules: Rules, given: Given) -> dict[str, str]:
    known = given.ranges.weights if given.ranges else None
    return quantize_int8_weights(model, rules, given.int8.first_last, weights=known, keep_float=given.int8.keep_float)


def _int4(model: ir.Model, rules: Rules, given: Given) -> dict[str, str]:
    known = given.ranges.weights if given.ranges else None
    return quantize_int4(model, rules, given.int4.block, given.int4.first_last, weights=known,
                         keep_float=given.int4.keep_float, blocks=given.ranges.blocks if given.ranges else None)


def _mixed(model: ir.Model, rules: Rules, given: Given) -> dict[str, str]:
    if given.ranges is None or given.assignment is None:
        raise OnnxError("mixed needs ranges and a precision for each layer, found none; calibrate and assign first")
    names = [layer.name for layer in layers(model.graph)]
    asked = {layer.name for layer in chosen_layers(model.graph, given.int8.first_last, given.int8.keep_float)}
    return quantize_mixed(model, rules, given.ranges, given.int4.block, given.assignment, given.joins,
                          spared=[name for name in names if name not in asked])


# precision -> changes the model in place and says which layers became what; precisions not here quantize nothing
QUANTIZERS: dict[str, Callable[[ir.Model, Rules, Given], dict[str, str]]] = {
    "fp8": _fp8,
    "int8": _int8,
    "int8_weight_only": _int8_weights,
    "int4": _int4,
    "mixed": _mixed,
}


def convert(
    float_onnx: Path, out_path: Path, precision: str, rules_name: str, ranges: Ranges | None = None,
    int8: Int8 | None = None, int4: Int4 | None = None, probe: np.ndarray | None = None,
    assignment: Mapping[str, str] | None = None, joins: bool = True,
) -> dict[str, Any]:
    """Write `out_path` and say what it is: {"gap": …, "layers": [{"name", "op", "precision", "macs"}], "weight_bytes"}.

    ranges: needed for int8 and fp8; int8_weight_only and int4 take the amax of weights from it, where there is one.
    probe: float32 images (n, 3, S, S) for the comparison; real ones tell more than the default, which is noise.
    assignment: layer name -> precision, for `mixed`; joins: whether its residual Adds, pools and Concats may be INT8.
    Raises OnnxError, with nothing written, when it cannot be done.
    """
    if rules_name not in RULES:
        raise OnnxError(f"target rules: found '{rules_name}', expected {', '.join(RULES)}{nearest(rules_name, RULES)}")
    rules = RULES[rules_name]
    given = Given(ranges, int8 or Int8(), int4 or Int4(), assignment, joins)
    with circles_freed():  # its weights would stay in memory beside those of the sessions
        described = _written(float_onnx, out_path, precision, rules, given)
    images = probe_images(float_onnx) if probe is None else probe
    try:
        found = gap(run(float_onnx, images), run(out_path, images, optimize=rules.half == "storage"), out_path)
    except OnnxError:
        out_path.unlink(missing_ok=True)
        raise
    return {"gap": found, "layers": described, "weight_bytes": weight_bytes(out_path)}


def _written(float_onnx: Path, out_path: Path, precision: str, rules: Rules, given: Given) -> list[dict[str, Any]]:
    """Write the file; its layers, as `convert` tells them."""
    model = read_onnx(float_onnx)
    check_weights(model, float_onnx)
    rest = _rest(precision, rules)
    if rest == "fp16":
        check_fp16(model)  # before codes are made: they become FP16 values when the engine reads them
    passes.ShapeInferencePass()(model)
    described = [{"name": layer.name, "op": layer.op, "precision": rest, "macs": layer.macs}
                 for layer in layers(model.graph)]
    changed: dict[str, str] = {}
    if precision in QUANTIZERS:
        try:
            changed = QUANTIZERS[precision](model, rules, given)
        except OnnxError as wrong:
            raise OnnxError(f"{float_onnx}: {wrong}") from None
    if rest != "fp32" and (precision in QUANTIZERS or rules.half == "compute"):
        compute_in_half(model, rest)
    elif rest != "fp32":
        store_in_half(model, rest)
    for entry in described:
        entry["precision"] = changed.get(str(entry["name"]), entry["precision"])
    clean(model)
    write_onnx(model, out_path, lean=rules.lean)
    return described


def _rest(precision: str, rules: Rules) -> str:
    """Precision of whatever is not quantized."""
    floats = {"mixed": "fp32", "int8": rules.int8_float, "int8_weight_only": rules.int4_float, "int4": rules.int4_float,
              "fp8": rules.fp8_float or "fp32"}
    return floats.get(precision, precision)

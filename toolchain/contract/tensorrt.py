"""TensorRT and TensorRT for RTX: the network before the build, and the engine inspector's answer where there is one.

Networks are strongly typed, so a float layer runs in the type that the walk of the network names. Q/DQ pairs are taken
into INT8 and FP8 kernels by the builder alone: without the inspector, which needs a GPU, that cannot be told. Seen
live: the walk, by tensorrt_rtx 1.7. Not seen live: the inspector's JSON; its forms are those of the documentation
(10.x: "Format/Datatype" in one string; 11.x: "Format" and "Datatype" apart).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.contract.engine_file import FileLayer, Join
from toolchain.contract.ran import Ran, assigned
from toolchain.engines.record import EngineRecord
from toolchain.engines.trt_build import INSPECTED

WALKED = ("CONVOLUTION", "MATRIX_MULTIPLY")
TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)\]")
# "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP32", "Int8", "FP8", "Half"
TOLD = (("int8", re.compile(r"int8", re.I)), ("fp8", re.compile(r"fp8|float8", re.I)),
        ("bf16", re.compile(r"bf16|bfloat16", re.I)), ("fp16", re.compile(r"fp16|half|float16", re.I)),
        ("int4", re.compile(r"int4", re.I)), ("fp32", re.compile(r"fp32|float", re.I)))
PRODUCT = re.compile(r"conv|gemm|matrix_?multiply|fully_?connected", re.I)  # LayerType of what multiplies and adds
MOVES = re.compile(r"reformat|noop|constant|shape", re.I)  # only moves tensors, whatever name it bears
HIDDEN = ("the file asks for it, but whether the builder took its QuantizeLinear and DequantizeLinear into an integer "
          "kernel is hidden: the engine can be opened on a GPU alone")


def read(record: EngineRecord, layers: Mapping[str, FileLayer], joins: Mapping[str, Join], folder: Path
         ) -> dict[str, Ran]:
    """What each of `layers` is built as. joins: left out, they run inside other kernels. folder: of the engine."""
    text = folder / INSPECTED
    listed = inspected_layers(text.read_text(encoding="utf-8")) if text.is_file() else []
    opened = assigned(_sure(listed, {name for layer in layers.values() for name in layer.own}), layers)
    walked = assigned([([str(layer["name"])], layer) for layer in record.layers if layer["op"] in WALKED], layers)
    return {name: _inspected(opened[name], layer) if name in opened else _walked(walked.get(name), layer)
            for name, layer in layers.items()}


def _sure(listed: Sequence[tuple[list[str], dict[str, Any]]], own: Collection[str]
          ) -> list[tuple[list[str], dict[str, Any]]]:
    """What the inspector lists, under the names by which it tells of a layer and not of its neighbours.

    own: names of layers and of their results. Any other name, an Add's say, counts only for a convolution or product.
    """
    found = []
    for names, layer in listed:
        kind = str(layer.get("LayerType", ""))
        mine = [name for name in names if name in own]
        if not MOVES.search(kind):
            found.append((mine or (names if PRODUCT.search(kind) else []), layer))
    return found


def inspected_layers(text: str) -> list[tuple[list[str], dict[str, Any]]]:
    """[(ONNX nodes, layer)] of the inspector's JSON for a whole engine; layers that name no node are left out."""
    try:
        listed = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    found = []
    for layer in listed:
        if isinstance(layer, dict):  # a string (the name alone) where the engine was built without details
            names = [*ONNX_LAYER.findall(str(layer.get("Metadata", ""))), *str(layer.get("Name", "")).split(" + ")]
            found.append(([name.strip() for name in names], layer))
    return found


def _walked(kernel: Mapping[str, Any] | None, layer: FileLayer) -> Ran:
    """A float type is binding; codes around the layer are only a wish."""
    if kernel is None:
        return Ran(None, "no layer of the network bears its name")
    if layer.taken is not None and layer.stored in ("int8", "fp8"):
        return Ran(None, HIDDEN)
    return Ran(TYPES.get(str(kernel["dtype"]), str(kernel["dtype"])), f"TensorRT types it {kernel['dtype']}")


def _inspected(layer: Mapping[str, Any], asked: FileLayer) -> Ran:
    """By the type of its first input. A fused kernel that is no plain product may hold the QuantizeLinear itself, and
    integer weights alone may be decoded in the kernel: neither tells."""
    kernel = f"TensorRT runs it as {layer.get('TacticName') or layer.get('LayerType') or 'a kernel without a name'}"
    inputs = [kind for kind in map(_type, layer.get("Inputs", ())) if kind]
    weights = layer.get("Weights")
    stored = _kind(str(weights.get("Type", ""))) if isinstance(weights, dict) else None
    if inputs and inputs[0] in ("int8", "fp8") and stored in (None, inputs[0]):
        return Ran(inputs[0], kernel)
    coded = asked.taken is not None and asked.stored in ("int8", "fp8")
    plain = PRODUCT.search(str(layer.get("LayerType", ""))) is not None
    if inputs and inputs[0] not in ("int8", "fp8", "int4") and (plain or not coded):
        return Ran(inputs[0], kernel)
    return Ran(None, f"{kernel}, and what it computes in is not told")


def _type(tensor: Any) -> str | None:
    """The element type of one of a layer's tensors, in 10.x's words or 11.x's."""
    if not isinstance(tensor, dict):
        return None
    told = tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or tensor.get("Format")
    return _kind(str(told or ""))


def _kind(text: str) -> str | None:
    return next((kind for kind, pattern in TOLD if pattern.search(text)), None)

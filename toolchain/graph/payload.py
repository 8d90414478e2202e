"""What a file's stored numbers are: codes, their scales and zero points, or floats. Together they are its payload."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir

from toolchain.graph.onnx_file import read_onnx

DECODERS = ("QuantizeLinear", "DequantizeLinear")  # inputs: values, scale, zero point
FUSED = {"MatMulNBits": {1: "codes", 2: "scales", 3: "zero_points"}}  # ONNX Runtime's own
NARROW_FLOATS = ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1")
WIDE_INTEGERS = ("INT64", "INT32", "BOOL", "UINT64")  # shapes, axes: no parameters of the network


@dataclass(frozen=True)
class Payload:
    """Bytes as stored. codes: integers and FP8 of weights. floats: everything else a layer computes with.

    other: shapes and the like. values: how many numbers `codes` holds.
    """

    codes: int = 0
    scales: int = 0
    zero_points: int = 0
    floats: int = 0
    other: int = 0
    values: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.codes + self.scales + self.zero_points + self.floats + self.other


def payload(onnx_path: Path) -> Payload:
    """What the initializers of a file are, each counted once. Raises OnnxError when the file cannot be read."""
    found = asdict(Payload())
    for value in read_onnx(onnx_path).graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        role = _role(value, tensor.dtype)
        found[role] += tensor.nbytes
        if role == "codes":
            found["values"] += tensor.size * (2 if _holds_two(value, tensor.dtype) else 1)
    return Payload(**found)


def _role(value: ir.Value, kind: ir.DataType) -> str:
    for use in value.uses():
        if use.node.op_type in DECODERS:
            return ("codes", "scales", "zero_points")[use.idx]
        if use.node.op_type in FUSED:
            return FUSED[use.node.op_type].get(use.idx, "other")
        if use.node.op_type == "Mul" and _is_decoded(use.node.inputs[1 - use.idx]):
            return "scales"
    return _role_by_type(kind)


def _is_decoded(value: ir.Value | None) -> bool:
    """Whether a value is stored codes made float by a Cast."""
    cast = value.producer() if value is not None else None
    stored = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return stored is not None and stored.const_value is not None and _role_by_type(stored.const_value.dtype) == "codes"


def _role_by_type(kind: ir.DataType) -> str:
    if kind.name in WIDE_INTEGERS:
        return "other"
    return "codes" if not kind.is_floating_point() or kind.name in NARROW_FLOATS else "floats"


def _holds_two(value: ir.Value, kind: ir.DataType) -> bool:
    """MatMulNBits stores two codes in a byte of type UINT8."""
    return kind.name == "UINT8" and any(use.node.op_type in FUSED and use.idx == 1 for use in value.uses())

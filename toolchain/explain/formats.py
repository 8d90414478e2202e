"""Number formats as numpy and ml_dtypes implement them: nothing here is copied from a table.

Layouts: IEEE 754 (fp32, fp16), Kalamkar et al. 2019 (bf16), NVIDIA's TF32, Micikevicius et al. 2022 (FP8). TF32 is what
tensor cores round FP32 inputs to: 19 bits of a value that is stored in 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

EXAMPLES = (1e-8, 1e-4, 0.1, 448.0, 65504.0, 65519.0, 65535.0, 100000.00001, 1e38)
TF32_DROPPED = 13  # of FP32's 23 fraction bits
FLOATS: dict[str, Any] = {
    "fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2}
INTEGERS: dict[str, Any] = {"int8": np.int8, "int4": ml_dtypes.int4}


@dataclass(frozen=True)
class NumberFormat:
    """One format. eps: from 1 to the next value. The last four are None for integers, whose scale says how large 1 is.

    lowest: -largest, except for integers. bits: used; stored_bits: taken in memory.
    """

    name: str
    bits: int
    stored_bits: int
    exponent_bits: int
    fraction_bits: int
    largest: float
    lowest: float
    smallest_normal: float | None = None
    smallest_subnormal: float | None = None
    eps: float | None = None
    infinity: bool = False

    @property
    def bytes_each(self) -> float:
        """Bytes that one value takes: 0.5 for int4."""
        return self.stored_bits / 8


def number_formats() -> list[NumberFormat]:
    """Every format, in order of what it can hold."""
    floats = {name: _float(name, kind) for name, kind in FLOATS.items()}
    return [floats.pop("fp32"), _tf32(), *floats.values(), *(_integer(name, kind) for name, kind in INTEGERS.items())]


def rounded(value: float, name: str) -> float:
    """`value` as this float format (tf32 too) holds it, ties to even; NaN or infinity where it is too large.

    FP32 is where it comes from, as in a network: it is rounded to that first.
    """
    with np.errstate(over="ignore"):
        single = np.float32(value)
        if name == "tf32":
            return float(_to_tf32(single))
        return float(single.astype(FLOATS[name]))


def pattern(value: float, name: str) -> str:
    """The bits of `value` in this format, in hexadecimal: pattern(1e-4, "fp16") is '0x068E'."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
        stored = _to_tf32(single) if name == "tf32" else single.astype(FLOATS[name])
    size = stored.dtype.itemsize
    return f"0x{int.from_bytes(stored.tobytes(), 'little'):0{2 * size}X}"


def truncated_bf16(value: float) -> tuple[float, str]:
    """What dropping the last two bytes of an FP32 value gives, which is not how conversion rounds: (value, pattern)."""
    bits = int(np.float32(value).view(np.uint32)) >> 16
    return float(np.uint32(bits << 16).view(np.float32)), f"0x{bits:04X}"


def _float(name: str, kind: Any) -> NumberFormat:
    facts, bits = ml_dtypes.finfo(kind), np.dtype(kind).itemsize * 8
    with np.errstate(over="ignore"):
        infinity = bool(np.isinf(np.float32(np.inf).astype(kind).astype(np.float32)))
    return NumberFormat(
        name, bits, bits, bits - 1 - facts.nmant, facts.nmant, float(facts.max), float(facts.min),
        float(facts.smallest_normal), float(facts.smallest_subnormal), float(facts.eps), infinity)


def _tf32() -> NumberFormat:
    single, fraction = _float("fp32", np.float32), 23 - TF32_DROPPED
    eps = 2.0**-fraction
    assert single.smallest_normal is not None
    largest = float(_cut(np.float32(single.largest)))
    return NumberFormat("tf32", 1 + 8 + fraction, 32, 8, fraction, largest, -largest, single.smallest_normal,
                        single.smallest_normal * eps, eps, True)


def _integer(name: str, kind: Any) -> NumberFormat:
    facts = ml_dtypes.iinfo(kind)
    return NumberFormat(name, facts.bits, facts.bits, 0, 0, float(facts.max), float(facts.min))


def _cut(value: np.float32) -> np.float32:
    """An FP32 value without the fraction bits that TF32 has not."""
    return np.uint32(int(value.view(np.uint32)) >> TF32_DROPPED << TF32_DROPPED).view(np.float32)


def _to_tf32(value: np.float32) -> np.float32:
    """FP32 -> the nearest TF32 value, ties to even, in FP32's own layout."""
    if not np.isfinite(value):
        return value
    bits = int(value.view(np.uint32))
    half = (1 << (TF32_DROPPED - 1)) - 1 + (bits >> TF32_DROPPED & 1)
    return _cut(np.uint32(bits + half).view(np.float32))

"""Integer codes at their true size: b bits each, or many codes of an odd number of levels in one word.

2^b - 1 levels fit b bits. The 2^b + 1 levels of the GPFQ studies do not: "2 bits" are five levels. They take b + 1 bits
each, or stand as digits of that base, 27 base-5 digits in eight bytes: 2.37 bits each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from toolchain.errors import OnnxError
from toolchain.files import write_bytes

LARGEST_BITS = 9  # 257 levels, of the studies' 8 bits
CHUNK = 1 << 20  # codes unpacked to single bits at a time; a multiple of 8, so every chunk ends on a byte
WORD_BITS = 64


@dataclass(frozen=True)
class Coding:
    """How codes -k … k are stored. base None: `bits` bits each, two's complement, the first in the lowest bits.

    Else `per_word` digits of `base` in a 64-bit little-endian word, the first digit the lowest; digit = code + k.
    """

    bits: int
    base: int | None = None
    per_word: int = 1

    @property
    def name(self) -> str:
        """In words, for a report."""
        return f"{self.bits} bits each" if self.base is None else f"{self.per_word} base-{self.base} digits in 8 bytes"


def smallest_coding(levels: int) -> Coding:
    """The smallest coding of `levels` (odd: -k … k) codes. Raises ValueError for more than 511 or an even number."""
    bits = (levels - 1).bit_length()
    if levels < 3 or levels % 2 == 0 or bits > LARGEST_BITS:
        raise ValueError(f"expected an odd number of levels from 3 to {2**LARGEST_BITS - 1}, found {levels}")
    digits = next(n for n in range(WORD_BITS, 0, -1) if levels**n <= 2**WORD_BITS)
    in_words = levels != 2**bits - 1 and WORD_BITS / digits < bits
    return Coding(bits, levels, digits) if in_words else Coding(bits)


def pack(codes: np.ndarray, how: Coding) -> np.ndarray:
    """codes: integers of any shape -> uint8 (bytes,). Raises ValueError when a code does not fit."""
    flat = codes.ravel()
    largest = 2 ** (how.bits - 1) - 1 if how.base is None else (how.base - 1) // 2
    smallest = -largest - (how.base is None)
    if flat.size and not smallest <= flat.min() <= flat.max() <= largest:
        raise ValueError(f"codes {flat.min()} to {flat.max()} do not fit {how.name}: {smallest} to {largest}")
    if how.base is None:
        chunks = [_to_bits(flat[i : i + CHUNK], how.bits) for i in range(0, flat.size, CHUNK)]
        return np.concatenate([np.zeros(0, np.uint8), *chunks])
    digits = np.zeros(-(-flat.size // how.per_word) * how.per_word, np.uint64)
    digits[: flat.size] = (flat.astype(np.int64) + largest).astype(np.uint64)
    words = np.zeros(digits.size // how.per_word, np.uint64)
    for column in digits.reshape(-1, how.per_word).T[::-1]:
        words = words * np.uint64(how.base) + column
    return words.astype("<u8").view(np.uint8)


def unpack(packed: np.ndarray, how: Coding, count: int) -> np.ndarray:
    """The first `count` codes, int16 (count,): what `pack` was given."""
    if how.base is None:
        step = CHUNK * how.bits // 8
        chunks = [_from_bits(packed[i : i + step], how.bits) for i in range(0, packed.size, step)]
        return np.concatenate([np.zeros(0, np.int16), *chunks])[:count]
    words, columns = packed.view("<u8").astype(np.uint64), []
    for _ in range(how.per_word):
        words, digit = np.divmod(words, np.uint64(how.base))
        columns.append(digit.astype(np.int16) - np.int16((how.base - 1) // 2))
    return np.stack(columns, axis=1).ravel()[:count]


@dataclass(frozen=True)
class PackedWeight:
    """A weight as codes of `levels` levels, with the output channels along `axis`.

    scale: float32 (1,) or (channels,). Value of code c: scale * c, or for an `offset` alphabet
    sign(c) * (offset + scale * (|c| - 1)).
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int
    levels: int
    offset: float | None = None

    @property
    def values(self) -> np.ndarray:
        """The weight, float32."""
        scale = self.scale.reshape([-1 if i == self.axis else 1 for i in range(self.codes.ndim)])
        return code_values(self.codes, scale, self.offset).astype(np.float32)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed codes and the scales."""
        how = smallest_coding(self.levels)
        codes = self.codes.size
        packed = -(-codes * how.bits // 8) if how.base is None else 8 * -(-codes // how.per_word)
        return packed + self.scale.nbytes


def code_values(codes: np.ndarray, scale: np.ndarray, offset: float | None = None) -> np.ndarray:
    """Codes -> real values, in the type of `scale`, which broadcasts against them."""
    if offset is None:
        return codes.astype(scale.dtype) * scale
    steps = (np.maximum(np.abs(codes), 1) - 1).astype(scale.dtype)
    return np.sign(codes).astype(scale.dtype) * (scale.dtype.type(offset) + scale * steps)


def write_packed(path: Path, weights: Mapping[str, PackedWeight]) -> None:
    """A safetensors file: `NAME.codes` uint8 (bytes,), `NAME.scale` float32, and in its header what they mean."""
    tensors, about = {}, {}
    for name, weight in weights.items():
        tensors[f"{name}.codes"] = pack(weight.codes, smallest_coding(weight.levels))
        tensors[f"{name}.scale"] = weight.scale.astype(np.float32)
        about[name] = {"shape": list(weight.codes.shape), "axis": weight.axis, "levels": weight.levels,
                       "coding": smallest_coding(weight.levels).name, "offset": weight.offset}
    write_bytes(path, save(tensors, {"format": "toolchain.packed/1", "weights": json.dumps(about, sort_keys=True)}))


def read_packed(path: Path) -> dict[str, PackedWeight]:
    """What `write_packed` wrote. Raises OnnxError when the file is missing, damaged, or not one of ours."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["weights"])
            return {name: _read(file.get_tensor(f"{name}.codes"), file.get_tensor(f"{name}.scale"), **facts)
                    for name, facts in about.items()}
    except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as wrong:
        raise OnnxError(f"{path}: not a file of packed weights ({wrong}); build it again") from None


def _read(packed: np.ndarray, scale: np.ndarray, shape: list[int], axis: int, levels: int, offset: float | None,
          coding: str) -> PackedWeight:
    how = smallest_coding(levels)
    if how.name != coding:
        raise ValueError(f"{levels} levels stored as {coding}, expected {how.name}")
    return PackedWeight(unpack(packed, how, prod(shape)).reshape(shape), scale, axis, levels, offset)


def _to_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """At most CHUNK codes -> bytes; a last byte that is not full is filled with zeros."""
    pairs = codes.astype("<i2").view(np.uint8).reshape(-1, 2)
    single = np.unpackbits(pairs, axis=1, bitorder="little")[:, :bits]
    return np.packbits(single.ravel(), bitorder="little")


def _from_bits(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes -> all codes that they hold whole, int16, sign extended."""
    single = np.unpackbits(packed, bitorder="little")
    rows = single[: single.size // bits * bits].reshape(-1, bits)
    extended = np.concatenate([rows, np.repeat(rows[:, -1:], 16 - bits, axis=1)], axis=1)
    return np.packbits(extended, axis=1, bitorder="little").view("<i2").ravel().astype(np.int16)

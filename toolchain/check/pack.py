"""Arrays as text for a file in git: answers as one packed word, ratios as a line of numbers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 4  # of a ratio: a hundredth of a percent, far below what repeats
TYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}


def coded(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) 0 where an answer is right, else the answer + 1: nearly all zeros, so that it packs well."""
    return np.where(answers == labels, 0, answers + 1)


def packed(codes: NDArray[np.int64]) -> str:
    """Codes (N,) >= 0 as "uint8:<base64 of zlib>", in the smallest type that holds them."""
    kind = np.min_scalar_type(int(codes.max(initial=0))).name
    return f"{kind}:" + base64.b64encode(zlib.compress(codes.astype(TYPES[kind]).tobytes(), 9)).decode()


def unpacked(text: str, count: int) -> NDArray[np.int64]:
    """The `count` codes of `packed`, and never more memory than they need. Raises ValueError in words."""
    kind, _, word = text.partition(":")
    if kind not in TYPES:
        raise ValueError(f"found codes of type {kind[:20]!r}, expected {', '.join(TYPES)}")
    size = count * np.dtype(TYPES[kind]).itemsize
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(base64.b64decode(word, validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the packed answers are damaged ({error})") from None
    if len(content) != size or not inflate.eof or inflate.unused_data:
        raise ValueError(f"the packed answers are not those of {count} images")
    return np.frombuffer(content, TYPES[kind]).astype(np.int64)


def numbers(values: NDArray[np.float64]) -> str:
    """"3.61 3.598 3.62": DIGITS significant digits each."""
    return " ".join(f"{value:.{DIGITS}g}" for value in values)


def read_numbers(text: str) -> NDArray[np.float64]:
    """The numbers of `numbers`. Raises ValueError where one is none, or is not finite and positive."""
    values = np.array([float(word) for word in text.split()], np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("expected finite ratios above 0")
    return values


def digest(values: NDArray[Any], kind: str) -> str:
    """SHA-256 over the values as little-endian `kind`, the same on every machine."""
    return hashlib.sha256(np.ascontiguousarray(values, kind).tobytes()).hexdigest()

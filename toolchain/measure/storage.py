"""What a network takes on a device: its file, the file deflated, and its weights packed by where they are zero."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LEVEL = 6  # zlib's own default, and that of a zip or gzip of the file
CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredWeight:
    """One layer's weight as its file stores it. bits: of one value. nonzero: how many of `values` are not zero."""

    name: str
    values: int
    nonzero: int
    bits: int
    two_of_four: bool = False  # at most two of every four values along the input channels are not zero


def deflate_bytes(path: Path) -> int:
    """Bytes of the file as one zlib stream of level 6; any amount of memory will do. Raises OSError."""
    packer, total = zlib.compressobj(LEVEL), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())


def dense_bytes(weight: StoredWeight) -> int:
    """Every value, one after the other."""
    return _whole(weight.values * weight.bits)


def bitmap_bytes(weight: StoredWeight) -> int:
    """A bit for each value that says whether it is zero, and the others one after the other."""
    return _whole(weight.nonzero * weight.bits + weight.values)


def two_of_four_bytes(weight: StoredWeight) -> int:
    """Half of the values, and two bits for the place of each; every value of a layer without the pattern."""
    return _whole(weight.values // 2 * (weight.bits + 2)) if weight.two_of_four else dense_bytes(weight)


def packed(weights: Iterable[StoredWeight], weight_bytes: int) -> dict[str, int | None]:
    """{"bitmap_bytes", "two_of_four_bytes"}: all of a file's `weight_bytes` with its layers' weights in that form.

    Biases, scales and zero points stay as they are. two_of_four_bytes is None where no layer has the pattern.
    """
    weights = list(weights)
    rest = weight_bytes - sum(map(dense_bytes, weights))
    return {"bitmap_bytes": rest + sum(map(bitmap_bytes, weights)),
            "two_of_four_bytes": rest + sum(map(two_of_four_bytes, weights))
            if any(weight.two_of_four for weight in weights) else None}


def _whole(bits: int) -> int:
    return -(-bits // 8)

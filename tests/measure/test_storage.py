"""Sizes worked out by hand, and zlib's own answer for a whole file."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from toolchain.measure.storage import (
    CHUNK,
    StoredWeight,
    bitmap_bytes,
    deflate_bytes,
    dense_bytes,
    packed,
    two_of_four_bytes,
)


@pytest.mark.parametrize("size", [0, 1, 100_000, CHUNK + 12_345])
def test_a_file_deflates_to_what_zlib_makes_of_all_its_bytes_at_once(tmp_path: Path, size: int) -> None:
    values = np.random.default_rng(0).standard_normal(size // 4 + 1).astype(np.float32)
    values[::3] = 0
    content = values.tobytes()[:size]
    (tmp_path / "file").write_bytes(content)
    assert deflate_bytes(tmp_path / "file") == len(zlib.compress(content, 6))


def test_packed_sizes_worked_by_hand() -> None:
    sparse = StoredWeight("a", values=1000, nonzero=300, bits=32)
    assert dense_bytes(sparse) == 4000
    assert bitmap_bytes(sparse) == 300 * 4 + 125  # a bit for each of 1000
    odd = StoredWeight("b", values=9, nonzero=3, bits=4)
    assert (dense_bytes(odd), bitmap_bytes(odd)) == (5, 3)  # 36 bits; 3 * 4 + 9 = 21 bits
    half = StoredWeight("c", values=1600, nonzero=800, bits=16, two_of_four=True)
    assert two_of_four_bytes(half) == 0.5625 * dense_bytes(half)  # 800 values of 16 + 2 bits, against 1600 of 16
    codes = StoredWeight("d", values=1600, nonzero=700, bits=8, two_of_four=True)
    assert two_of_four_bytes(codes) == 0.625 * dense_bytes(codes)
    assert two_of_four_bytes(sparse) == 4000  # it has no pattern


def test_what_is_no_weight_of_a_layer_stays_as_it_is() -> None:
    sparse = StoredWeight("a", values=1000, nonzero=300, bits=32)
    assert packed([sparse], weight_bytes=4100) == {"bitmap_bytes": 1325 + 100, "two_of_four_bytes": None}
    half = StoredWeight("c", values=1600, nonzero=800, bits=16, two_of_four=True)
    assert packed([sparse, half], 4000 + 3200 + 7) == {
        "bitmap_bytes": 1325 + (1600 + 200) + 7, "two_of_four_bytes": 4000 + 1800 + 7}

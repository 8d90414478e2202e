"""Packed codes: bytes written out by hand, sizes by arithmetic, and everything comes back."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from toolchain.errors import OnnxError
from toolchain.quantize.packed import Coding, PackedWeight, pack, read_packed, smallest_coding, unpack, write_packed


@pytest.mark.parametrize(("bits", "codes", "expected"), [
    (4, [1, -1, 7, -7], [0xF1, 0x97]),  # the first code in the low half: 1 | 1111 << 4, 0111 | 1001 << 4
    (2, [1, -1, 0, 1], [0b01001101]),
    (3, [1, 2, -3], [0b01010001, 0b1]),  # 001, 010, 101 from the lowest bit on: 0b1_0101_0001
    (8, [-127, 5], [0x81, 5]),
    (9, [-1, 1], [0xFF, 0b11, 0]),  # nine ones, then 000000001
], ids=str)
def test_codes_stand_in_the_bytes_worked_by_hand(bits, codes, expected):
    assert pack(np.array(codes), Coding(bits)).tolist() == expected


def test_digits_of_base_five_stand_in_one_word():
    # digits 0, 4, 2 -> 0 + 4 * 5 + 2 * 25 = 70, and 24 zeros, which are code -2's digit 0 only as filling
    how = smallest_coding(5)
    assert pack(np.array([-2, 2, 0]), how).tolist() == [70, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("levels", "name"), [
    (3, "2 bits each"), (7, "3 bits each"), (15, "4 bits each"), (255, "8 bits each"),  # 2^b - 1 fit b bits
    (5, "27 base-5 digits in 8 bytes"),  # 5^27 < 2^64 < 5^28: 2.37 bits each, not 3
    (17, "15 base-17 digits in 8 bytes"), (257, "9 bits each"),  # 257^8 > 2^64: seven digits would take 9.14 bits
])
def test_levels_take_the_smallest_coding(levels, name):
    assert smallest_coding(levels).name == name


@pytest.mark.parametrize("levels", [2**b + d for b in range(2, 9) for d in (-1, 1, 3)])
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_what_is_packed_comes_back(levels, count):
    largest = (levels - 1) // 2
    codes = np.random.default_rng(levels).integers(-largest, largest + 1, count)
    how = smallest_coding(levels)
    assert unpack(pack(codes, how), how, count).tolist() == codes.tolist()


def test_more_codes_than_are_unpacked_at_once_come_back():
    codes = np.random.default_rng(0).integers(-3, 4, (1 << 20) + 11)
    packed = pack(codes, Coding(3))
    assert packed.size == -(-codes.size * 3 // 8) and (unpack(packed, Coding(3), codes.size) == codes).all()


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="codes -1 to 4 do not fit 3 bits each: -4 to 3"):
        pack(np.array([-1, 4]), Coding(3))
    with pytest.raises(ValueError, match="expected an odd number of levels from 3 to 511, found 1000"):
        smallest_coding(1000)


def test_a_weights_bytes_are_its_codes_and_its_scales():
    codes = np.zeros((10, 7), np.int16)
    # 70 codes: 4 bits -> 35 bytes; five levels -> 3 words; ten float32 scales -> 40 bytes, one -> 4
    assert PackedWeight(codes, np.ones(10, np.float32), 0, 15).stored_bytes == 35 + 40
    assert PackedWeight(codes, np.ones(1, np.float32), 0, 5).stored_bytes == 24 + 4


def test_values_of_both_kinds_of_levels():
    codes, scale = np.array([[-2, -1], [0, 3]], np.int16), np.array([0.5, 2], np.float32)
    assert PackedWeight(codes, scale, 0, 7).values.tolist() == [[-1, -0.5], [0, 6]]
    assert PackedWeight(codes, scale, 1, 7).values.tolist() == [[-1, -2], [0, 6]]
    # an offset of 0.25: sign * (0.25 + scale * (|c| - 1))
    assert PackedWeight(codes, scale, 0, 7, 0.25).values.tolist() == [[-0.75, -0.25], [0, 4.25]]


def test_a_file_of_packed_weights_is_read_back_and_as_large_as_said(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"a.weight": PackedWeight(rng.integers(-7, 8, (6, 5, 3, 3)).astype(np.int16), np.ones(6, np.float32), 0, 15),
               "b.weight": PackedWeight(rng.integers(-2, 3, (9, 4)).astype(np.int16), np.ones(1, np.float32), 1, 5, 0.5)}
    write_packed(tmp_path / "codes.safetensors", weights)
    found = read_packed(tmp_path / "codes.safetensors")
    for name, weight in weights.items():
        assert (found[name].codes == weight.codes).all() and found[name].scale.tolist() == weight.scale.tolist()
        assert (found[name].axis, found[name].levels, found[name].offset) == (weight.axis, weight.levels, weight.offset)
    header = 8 + int.from_bytes((tmp_path / "codes.safetensors").read_bytes()[:8], "little")
    size = (tmp_path / "codes.safetensors").stat().st_size
    assert size - header == sum(weight.stored_bytes for weight in weights.values())
    with safe_open(tmp_path / "codes.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["weights"])["b.weight"]["coding"] == "27 base-5 digits in 8 bytes"


def test_another_file_is_refused(tmp_path):
    (tmp_path / "codes.safetensors").write_bytes(b"not packed weights")
    with pytest.raises(OnnxError, match="not a file of packed weights"):
        read_packed(tmp_path / "codes.safetensors")

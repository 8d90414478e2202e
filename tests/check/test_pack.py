import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.check.pack import coded, digest, numbers, packed, read_numbers, unpacked


def test_right_answers_are_zero_and_wrong_ones_their_class_plus_one():
    assert coded(np.array([3, 3, 0]), np.array([3, 1, 9])).tolist() == [0, 4, 1]


@given(st.lists(st.integers(0, 100_000), max_size=50))
def test_what_is_packed_is_unpacked(codes):
    array = np.array(codes, np.int64)
    assert unpacked(packed(array), len(codes)).tolist() == codes


def test_the_smallest_type_holds_the_codes():
    assert [packed(np.array([0, top])).split(":")[0] for top in (255, 256, 70_000)] == ["uint8", "uint16", "uint32"]


@pytest.mark.parametrize(("text", "words"), [
    ("object:AAAA", "found codes of type 'object'"), ("uint8:not base64", "damaged"), ("uint8:AAAA", "damaged"),
    (packed(np.zeros(9, np.int64)), "not those of 10 images"), (packed(np.zeros(11, np.int64)), "not those of 10 images"),
    ("uint8:" + base64.b64encode(zlib.compress(bytes(50_000_000))).decode(), "not those of 10 images"),
])
def test_damaged_words_and_bombs_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        unpacked(text, 10)


def test_numbers_keep_four_digits():
    assert numbers(np.array([3.60001, 0.123456, 12])) == "3.6 0.1235 12"
    assert read_numbers("3.6 0.1235").tolist() == [3.6, 0.1235]
    for text in ("nan", "inf", "-1", "0", "1e999"):
        with pytest.raises(ValueError):
            read_numbers(text)


def test_a_digest_is_of_the_values_and_not_of_how_they_lie_in_memory():
    values = np.arange(6, dtype=np.uint64)
    assert digest(values, "<u8") == digest(np.stack([values, values], 1)[:, 0], "<u8")
    assert digest(values.astype(">u8"), "<u8") == digest(values, "<u8")

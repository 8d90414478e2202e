import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.engines.batching import check_batch, check_input, in_batches, pad
from toolchain.errors import EngineError


@given(st.integers(1, 40), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 8)))
def test_every_image_gets_its_own_logits_whatever_batches_the_engine_takes(n, smallest, more):
    largest = None if more is None else smallest + more
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    sizes = []

    def run(chunk):
        sizes.append(len(chunk))
        return chunk[:, :, 0, 0] * 10

    assert in_batches(run, images, (smallest, largest))[:, 0].tolist() == [10.0 * i for i in range(n)]
    assert min(sizes) >= smallest and (largest is None or max(sizes) <= largest)


def test_padding_repeats_the_last_image():
    assert pad(np.array([[1.0], [2.0]], np.float32), 4)[:, 0].tolist() == [1, 2, 2, 2]


def test_a_batch_outside_the_profile_is_refused_with_both_numbers():
    with pytest.raises(EngineError, match="found batch 65, expected 1 to 64"):
        check_batch("e", np.zeros((65, 3, 2, 2), np.float32), (1, 64))
    check_batch("e", np.zeros((65, 3, 2, 2), np.float32), (1, None))


def test_images_of_another_size_are_refused_with_both_shapes():
    with pytest.raises(EngineError, match=r"\(1, 3, 8, 8\), expected \(-1, 3, 16, 16\)"):
        check_input("e", np.zeros((1, 3, 8, 8), np.float32), (-1, 3, 16, 16))
    with pytest.raises(EngineError, match=r"\(3, 16, 16\)"):
        check_input("e", np.zeros((3, 16, 16), np.float32), (-1, 3, 16, 16))

import numpy as np
import pytest

from toolchain.measure.throughput import RUNS, WARMUP, fill, images_per_s, sweep, takes

IMAGES = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)


def test_images_per_second_is_the_batch_over_the_median_time(stub):
    """The stub's runs take 10, 11, 12, … ms; after two the median of 12 to 16 is 14 ms."""
    assert (WARMUP, RUNS) == (2, 5)
    assert images_per_s(stub(np.eye(3), ms=10.0), fill(IMAGES, 7)) == pytest.approx(7 / 0.014)


def test_the_sweep_leaves_out_batches_the_engine_does_not_take(stub):
    found = sweep(stub(np.eye(3), batches=(1, 8)), IMAGES, (1, 8, 32))
    assert [entry["batch"] for entry in found] == [1, 8]
    assert not takes(stub(np.eye(3), batches=(4, 4)), 1)


def test_a_batch_larger_than_the_images_starts_over():
    assert fill(IMAGES, 5)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1]
    assert fill(IMAGES, 2).flags["C_CONTIGUOUS"]

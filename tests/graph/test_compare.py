"""The gap between two files, and what makes it no gap but an error."""

import numpy as np
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.compare import gap, open_session, probe_images, run


def test_the_gap_is_the_one_worked_by_hand(tmp_path):
    found = gap(np.float32([[1, -4], [2, 3]]), np.float32([[1, -5], [3.5, 3]]), tmp_path)
    assert found == {"max_abs": 1.5, "relative": 1.5 / 4, "argmax_agreement": 0.5}


def test_logits_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(OnnxError, match="NaN or infinite"):
        gap(np.zeros((1, 2), np.float32), np.float32([[0, np.nan]]), tmp_path / "x.onnx")


def test_a_fixed_batch_is_fed_in_its_own_size(parse):
    path = parse("net (float[2,1] x) => (float[2,1] y) { y = Relu(x) }")
    assert run(path, np.float32([[-1], [2], [3]])).tolist() == [[0], [2], [3]]


def test_probe_images_are_always_the_same_and_fit_the_input(float_onnx):
    first, second = probe_images(float_onnx("vgg")), probe_images(float_onnx("vgg"))
    assert first.shape == (32, 3, 32, 32) and np.array_equal(first, second)


def test_an_operator_without_a_kernel_is_named(parse):
    path = parse("net (int64[n] x) => (int64[n] y) { y = Ceil(x) }".replace("int64", "bfloat16"))
    with pytest.raises(OnnxError, match="onnxruntime cannot load it.*Ceil"):
        open_session(path)

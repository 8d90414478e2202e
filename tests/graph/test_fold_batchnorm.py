"""Folding keeps the function; what cannot be folded stays."""

import numpy as np
import pytest

from toolchain.graph.fold_batchnorm import fold_batchnorm
from toolchain.graph.onnx_file import read_onnx, write_onnx

NORM = {"gamma": np.float32([2, 1]), "beta": np.float32([1, 0]), "mean": np.float32([3, 1]),
        "var": np.float32([4, 1]) - np.float32(1e-5)}
KERNEL = np.float32([5, -1]).reshape(2, 1, 1, 1)


def test_conv_and_batchnorm_become_the_conv_worked_by_hand(parse, tmp_path, run_onnx):
    path = parse("net (float[n,1,1,1] x) => (float[n,2,1,1] y) { c = Conv(x, w, b)  "
                 "y = BatchNormalization(c, gamma, beta, mean, var) }", w=KERNEL, b=np.float32([1, 0]), **NORM)
    model = read_onnx(path)
    assert fold_batchnorm(model) == 1
    write_onnx(model, tmp_path / "folded.onnx")
    assert [node.op_type for node in model.graph] == ["Conv"] and model.graph.outputs[0].name == "y"
    # channel 0: (5 x + 1 - 3) / 2 * 2 + 1 = 5 x - 1; channel 1: (-x - 1) / 1 = -x - 1
    assert run_onnx(tmp_path / "folded.onnx", np.float32([[[[2.0]]]])).ravel() == pytest.approx([9, -3])
    assert {v.const_value.nbytes for v in model.graph.initializers.values()} == {8}


def test_a_conv_that_someone_else_reads_too_is_left_alone(parse):
    path = parse("net (float[n,1,1,1] x) => (float[n,2,1,1] y) { c = Conv(x, w)  "
                 "d = BatchNormalization(c, gamma, beta, mean, var)  y = Add(c, d) }", w=KERNEL, **NORM)
    assert fold_batchnorm(read_onnx(path)) == 0


def test_a_batchnorm_without_a_conv_is_left_alone(parse):
    path = parse("net (float[n,2,1,1] x) => (float[n,2,1,1] y) { r = Relu(x)  "
                 "y = BatchNormalization(r, gamma, beta, mean, var) }", **NORM)
    assert fold_batchnorm(read_onnx(path)) == 0

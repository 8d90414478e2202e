"""Flatten written as Reshape computes the same for every batch."""

import numpy as np

from toolchain.graph.flatten import flatten_to_reshape
from toolchain.graph.onnx_file import read_onnx, write_onnx


def test_the_reshape_keeps_the_batch_and_joins_the_rest(parse, tmp_path, run_onnx):
    model = read_onnx(parse("net (float[n,2,1,3] x) => (float[n,6] y) { y = Flatten(x) }"))
    assert flatten_to_reshape(model) == 1
    write_onnx(model, tmp_path / "flat.onnx")
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 1, 3)
    assert run_onnx(tmp_path / "flat.onnx", x).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_flattening_from_another_axis_stays(parse):
    path = parse("net (float[n,2,1,3] x) => (float[a,3] y) { y = Flatten <axis = 3> (x) }")
    assert flatten_to_reshape(read_onnx(path)) == 0

"""ReduceMean over height and width is global average pooling, and nothing else is."""

import numpy as np
import onnx_ir.passes.common as passes
import pytest

from toolchain.graph.global_pool import use_global_average_pool
from toolchain.graph.onnx_file import read_onnx, write_onnx

NET = "net (float[n,2,2,2] x) => (float[n,2,1,1] y) {{ y = ReduceMean <keepdims = {keep}> (x, axes) }}"


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_the_mean_over_both_image_axes_becomes_a_pool(parse, tmp_path, run_onnx, axes):
    path = parse(NET.format(keep=1), axes=np.int64(axes))
    model = read_onnx(path)
    assert use_global_average_pool(model) == 1
    write_onnx(model, tmp_path / "pool.onnx")
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    assert run_onnx(tmp_path / "pool.onnx", x).ravel().tolist() == [1.5, 5.5]


@pytest.mark.parametrize(("axes", "keep"), [([1, 2], 1), ([3], 1), ([2, 3], 0)])
def test_other_means_stay(parse, axes, keep):
    path = parse(NET.format(keep=keep).replace("[n,2,1,1]", "[a,b,c,d]" if keep else "[a,b]"), axes=np.int64(axes))
    model = read_onnx(path)
    passes.ShapeInferencePass()(model)
    assert use_global_average_pool(model) == 0

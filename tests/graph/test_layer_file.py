"""A layer written by itself computes what that layer computes."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from toolchain.errors import OnnxError
from toolchain.graph.layer_file import LayerShape, write_layers
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx

STRIDED = LayerShape("conv", 3, 8, (3, 5), (2, 1), (1, 2), height=9, width=7)
DEPTHWISE = LayerShape("conv", 8, 8, (3, 3), (1, 1), (2, 2), (2, 2), groups=8, height=5, width=7, relu=False)
LINEAR = LayerShape("linear", 8 * 5 * 7, 6, relu=False)


def stored(path) -> dict[str, torch.Tensor]:
    return {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}


def test_sizes_worked_by_hand():
    assert STRIDED.output_size == (5, 7)  # (9 + 2 - 3) // 2 + 1 rows, (7 + 4 - 5) + 1 columns
    assert STRIDED.macs == 8 * 5 * 7 * 3 * 15
    assert STRIDED.elements == 3 * 9 * 7 + 8 * 5 * 7
    assert DEPTHWISE.output_size == (5, 7)  # 5 + 4 - 2 * 2
    assert DEPTHWISE.macs == 8 * 5 * 7 * 9
    assert (STRIDED.weights, DEPTHWISE.weights, LINEAR.weights) == (8 * 3 * 15, 8 * 9, 280 * 6)
    assert (LINEAR.macs, LINEAR.elements) == (280 * 6, 280 + 6)


def test_a_chain_gives_what_pytorch_gives_for_its_weights(tmp_path, run_onnx):
    write_layers(tmp_path / "a.onnx", [STRIDED, DEPTHWISE, LINEAR])
    given, images = stored(tmp_path / "a.onnx"), torch.randn(2, 3, 9, 7)
    x = F.conv2d(images, given["0.weight"], given["0.bias"], (2, 1), (1, 2)).relu()
    x = F.conv2d(x, given["1.weight"], given["1.bias"], 1, 2, 2, groups=8)
    expected = F.linear(x.flatten(1), given["2.weight"], given["2.bias"])
    np.testing.assert_allclose(run_onnx(tmp_path / "a.onnx", images.numpy()), expected, atol=1e-5)


def test_a_convolution_at_the_end_is_averaged_over_its_pixels(tmp_path, run_onnx):
    write_layers(tmp_path / "a.onnx", [STRIDED])
    given, images = stored(tmp_path / "a.onnx"), torch.randn(2, 3, 9, 7)
    expected = F.conv2d(images, given["0.weight"], None, (2, 1), (1, 2)).relu().mean(dim=(2, 3))
    np.testing.assert_allclose(run_onnx(tmp_path / "a.onnx", images.numpy()), expected, atol=1e-5)


def test_the_file_is_read_as_one_of_ours(tmp_path):
    write_layers(tmp_path / "a.onnx", [LayerShape("linear", 12, 4), LayerShape("linear", 4, 2, relu=False)])
    assert [(layer.name, layer.macs) for layer in layers(read_onnx(tmp_path / "a.onnx").graph)] == [("0", 48), ("1", 8)]


@pytest.mark.parametrize(("shapes", "words"), [
    ([], "found no layer"),
    ([STRIDED, LayerShape("conv", 4, 4, height=5, width=7)], r"layer 1 takes \(4, 5, 7\), but layer 0 gives \(8, 5, 7\)"),
    ([STRIDED, LayerShape("linear", 281, 4)], r"layer 1 takes \(281,\), but layer 0 gives \(280,\)"),
    ([LINEAR, LayerShape("conv", 6, 4)], "expected a chain of layers that fit"),
])
def test_layers_that_do_not_fit_are_refused(tmp_path, shapes, words):
    with pytest.raises(OnnxError, match=words):
        write_layers(tmp_path / "a.onnx", shapes)

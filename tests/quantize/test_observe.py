"""What calibration sees of a network: every tensor, every image once, however they are grouped."""

import math

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.quantize import observe as room
from toolchain.quantize.observe import Network, observe, step

SIDE = 200  # 3 x 200 x 200 = 120,000 values: too many to count them all
CONV = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[n,3,s,s] images) => (float[n,3] logits) <float[3,3,1,1] mix = {1,0,0, 0,1,0, 0,0,1}, int64[2] flat = {0,-1}> {
  c = Conv (images, mix)
  p = GlobalAveragePool(c)
  logits = Reshape(p, flat)
}
"""
ROWS_FIRST = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[n,3,2,2] images) => (float[n,3] logits) <float[3,3] eye = {1,0,0, 0,1,0, 0,0,1}> {
  t = Transpose <perm = [2, 3, 0, 1]> (images)
  m = MatMul (t, eye)
  b = Transpose <perm = [2, 3, 0, 1]> (m)
  logits = ReduceMean <keepdims = 0> (b, axes)
}
"""


def written(text, path, **arrays):
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, path)
    return path


@pytest.fixture
def conv(tmp_path):
    return written(CONV, tmp_path / "net.onnx")


def test_several_small_images_go_into_one_run_and_each_is_counted_once(conv):
    images = np.random.default_rng(0).normal(size=(21, 3, 2, 2)).astype(np.float32)
    assert Network(conv).group(images[0])[0] == 16
    seen = observe(conv, [images], True, lambda _: None)
    assert seen.images == 21 and seen.input == "images"
    assert seen.histograms["c"].counts.sum() == images.size
    assert (seen.histograms["c"].min, seen.histograms["c"].max) == (images.min(), images.max())


def test_of_a_large_tensor_a_part_is_counted_but_the_extremes_are_seen(conv):
    image = np.random.default_rng(0).uniform(-1, 1, size=(1, 3, SIDE, SIDE)).astype(np.float32)
    image[0, 2, SIDE - 1, SIDE - 1] = 50.0  # the last value, which no step from the first one meets
    histogram = observe(conv, [image], True, lambda _: None).histograms["c"]
    assert histogram.max == histogram.amax == 50.0
    every = step(image.size)
    assert histogram.counts.sum() == math.ceil(image.size / every) <= room.COUNTED


def test_min_and_max_alone_fill_no_histogram(conv):
    seen = observe(conv, [np.ones((2, 3, 2, 2), np.float32)], False, lambda _: None)
    assert not seen.histograms["c"].counts.any() and seen.histograms["c"].amax == 1.0


@pytest.mark.parametrize("size, every", [(1, 1), (2**13, 1), (2**15, 5), (32 * 112 * 112, 51), (3 * 5 * 7 * 10**4, 131)])
def test_a_step_is_large_enough_and_shares_no_factor_with_rows_or_channels(size, every):
    # 2**15 / 2**13 = 4 divides, so 5; 401,408 = 2**13 * 49: 49 and 50 share factors; 1,050,000 / 8,192 -> 129 and 130 do
    assert step(size) == every


def test_images_that_a_tensor_does_not_keep_apart_run_alone(tmp_path):
    net = written(ROWS_FIRST, tmp_path / "net.onnx", axes=np.int64([2, 3]))
    images = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    assert Network(net).group(images[0])[0] == 1
    assert observe(net, [images], True, lambda _: None).histograms["t"].counts.sum() == images.size


def test_the_image_that_overflows_is_named_within_its_group(conv):
    images = np.zeros((21, 3, 2, 2), np.float32)
    images[19] = np.inf
    with pytest.raises(OnnxError, match="calibration image 19 holds NaN or infinity"):
        observe(conv, [images[:5], images[5:]], True, lambda _: None)

"""Calibration on networks small enough to follow by hand."""

import tracemalloc

import numpy as np
import onnx
import pytest

from toolchain.errors import DataError, OnnxError
from toolchain.quantize.calibrate import calibrate, overlay
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.schema import EntropyCalibrator, MaxCalibrator

MAX, ENTROPY = MaxCalibrator(method="max"), EntropyCalibrator(method="entropy")
NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[{n},3,2,2] images) => (float[{n},2] logits) {{
  c = Conv (images, conv_weight)
  r = Relu(c)
  s = Add(r, c)
  p = GlobalAveragePool(s)
  f = Flatten(p)
  logits = Gemm <transB = 1> (f, head_weight)
}}
"""


@pytest.fixture
def net(tmp_path):
    def write(n="n", scale=1.0):
        model = onnx.parser.parse_model(NET.format(n=n))
        # channel 0 is the sum of the three inputs, channel 1 its negative
        conv = np.float32([[1, 1, 1], [-1, -1, -1]]).reshape(2, 3, 1, 1) * np.float32(scale)
        for name, array in {"conv_weight": conv, "head_weight": np.eye(2, dtype=np.float32)}.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.save(model, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return write


IMAGES = np.stack([np.full((3, 2, 2), 1.0), np.full((3, 2, 2), -2.0)]).astype(np.float32)


def test_ranges_are_those_worked_by_hand(net):
    # conv: +-3 and -+6; relu: 3 and 6; relu + conv: 6, -3 and -6, 12
    found = calibrate(net(), [IMAGES], MAX, 2)
    assert found.method == "max on 2 images" and found.weights == {}
    assert {name: (r.min, r.max, r.amax) for name, r in found.activations.items()} == {
        "images": (-2, 1, 2), "r": (0, 6, 6), "c": (-6, 6, 6), "s": (-6, 12, 12), "f": (-6, 12, 12)}


@pytest.mark.parametrize("cfg", [MAX, ENTROPY])
def test_batching_and_order_do_not_change_a_bit(net, cfg):
    images = np.random.default_rng(0).normal(size=(24, 3, 2, 2)).astype(np.float32)
    whole = calibrate(net(), [images], cfg)
    assert calibrate(net(), np.split(images[::-1], 6), cfg) == whole
    assert calibrate(net(), (image[None] for image in images), cfg) == whole


def test_a_network_with_a_fixed_batch_gives_the_same_ranges(net):
    images = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    free = calibrate(net(), [images], MAX)
    assert calibrate(net(n=4), [images], MAX).activations == pytest.approx(free.activations)


def test_the_layer_that_overflows_is_named(net):
    with pytest.raises(OnnxError, match="layer .*produces NaN or infinity for calibration image 1 "):
        calibrate(net(scale=1e38), [IMAGES[:1] * 0, IMAGES[1:]], MAX)


def test_a_bad_image_is_not_blamed_on_the_network(net):
    with pytest.raises(OnnxError, match=r"calibration image 0 holds NaN or infinity.*data\.mean"):
        calibrate(net(), [IMAGES * np.nan], MAX)


@pytest.mark.parametrize("images", [np.zeros((1, 3, 4, 4), np.float32), np.zeros((3, 2, 2), np.float32),
                                    np.zeros((1, 3, 2, 2), np.uint8)])
def test_images_of_the_wrong_shape_or_type_are_refused(net, images):
    with pytest.raises(DataError, match=r"expected float32 \(n, 3, 2, 2\); set data\.image_size"):
        calibrate(net(), [images], MAX)


def test_no_images_is_an_error(net):
    with pytest.raises(DataError, match="no calibration images"):
        calibrate(net(), [], MAX)


def test_memory_does_not_grow_with_images(net):
    path = net()

    def peak(count):
        tracemalloc.start()
        calibrate(path, (IMAGES for _ in range(count)), MAX)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(200) < peak(2) + 200_000


def test_learned_ranges_replace_calibrated_ones_by_the_weights_name(net):
    calibrated = calibrate(net(), [IMAGES], MAX)
    learned = {"conv_weight": {"input_amax": 1.5, "weight_amax": [0.5, 0.75]}}
    found = overlay(calibrated, learned, net())
    assert found.activations["images"] == ActivationRange(-2, 1, 1.5, clips=True)
    assert found.activations["f"] == calibrated.activations["f"]
    assert found.weights == {"conv_weight": [0.5, 0.75]}


def test_learned_ranges_of_another_network_are_refused(net):
    with pytest.raises(OnnxError, match=r"learned ranges for features\.0\.weight, but its layers are conv_weight"):
        overlay(Ranges({}), {"features.0.weight": {"input_amax": 1.0, "weight_amax": [1.0]}}, net())
    with pytest.raises(OnnxError, match="conv_weight has 2 output channels, but 3 learned ranges"):
        overlay(Ranges({}), {"conv_weight": {"input_amax": 1.0, "weight_amax": [1.0, 1.0, 1.0]}}, net())


def test_a_plain_background_does_not_make_entropy_clip_the_image(net):
    # all but one pixel in a hundred is background (-1); the drawing reaches 2, and must stay whole
    images = np.full((400, 3, 2, 2), -1.0, np.float32)
    images[::25, :, 0, 0] = np.linspace(-1, 2, 16, dtype=np.float32)[:, None]
    assert calibrate(net(), [images], ENTROPY).activations["images"].amax == 2.0

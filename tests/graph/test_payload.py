"""What a file stores, part by part, on a convolution and a linear layer whose bytes can be counted by hand."""

import numpy as np
import pytest

from toolchain.graph.convert import convert
from toolchain.graph.payload import payload
from toolchain.graph.storage import weight_bytes
from toolchain.quantize.calibrate import calibrate
from toolchain.recipe.schema import Int4, MaxCalibrator


@pytest.fixture
def network(parse, tmp_path):
    rng = np.random.default_rng(0)
    text = """net (float[n, 3, 8, 8] x) => (float[n, 5] y)
<float[16, 3, 3, 3] stem_w, float[16] stem_b, float[5, 576] head_w, float[5] head_b> {
  a = Conv (x, stem_w, stem_b)
  b = Relu (a)
  c = Flatten (b)
  y = Gemm <transB = 1> (c, head_w, head_b)
}"""
    path = parse(text, **{name: rng.normal(size=shape).astype(np.float32) for name, shape in (
        ("stem_w", (16, 3, 3, 3)), ("stem_b", (16,)), ("head_w", (5, 576)), ("head_b", (5,)))})
    images = rng.normal(size=(4, 3, 8, 8)).astype(np.float32)
    return path, images, calibrate(path, [images], MaxCalibrator(method="max"), 4)


WEIGHTS = 16 * 27 + 5 * 576  # 432 and 2,880


def stored(network, tmp_path, precision, rules):
    path, images, ranges = network
    convert(path, tmp_path / "out.onnx", precision, rules, ranges, int4=Int4(block=32), probe=images)
    found = payload(tmp_path / "out.onnx")
    assert found.total == weight_bytes(tmp_path / "out.onnx"), "the parts are the whole"
    return found


def test_a_float_file_stores_floats_alone(network, tmp_path):
    found = stored(network, tmp_path, "fp32", "cpu_x86")
    assert (found.floats, found.codes, found.scales, found.values) == (4 * (WEIGHTS + 21), 0, 0, 0)


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt"])
def test_an_int8_file_stores_a_byte_a_weight_and_a_scale_a_channel(network, tmp_path, rules):
    found = stored(network, tmp_path, "int8", rules)
    assert (found.codes, found.values, found.floats) == (WEIGHTS, WEIGHTS, 4 * 21)
    scales = found.scales // 4
    assert 21 + 2 <= scales <= 21 + 4, "one a channel, and one for each of the activations"


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt"])
def test_an_int4_file_stores_half_a_byte_a_weight_and_a_scale_a_block(network, tmp_path, rules):
    found = stored(network, tmp_path, "int4", rules)
    assert (found.codes, found.values) == (WEIGHTS // 2, WEIGHTS)
    assert found.scales == (4 if rules == "cpu_x86" else 2) * (16 + 5 * 576 // 32)  # 27 inputs: one block
    assert found.zero_points == 0

"""AdaRound: learned rounding beats nearest rounding on what the layer really reads, and survives conversion."""

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from repair_nets import DEPTHWISE, SHAPE, depthwise_weights, images, random, repaired, stored, values, write

from toolchain.graph.convert import convert
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.calibrate import calibrate
from toolchain.quantize.repair.adaround import round_layer
from toolchain.quantize.repair.grid import Target, weight_grid
from toolchain.quantize.repair.patches import as_rows, patches, positions
from toolchain.ranges import Ranges
from toolchain.recipe.repair import AdaRound, BiasCorrection
from toolchain.recipe.schema import MaxCalibrator

LINEAR = """net (float[n,3,1,1] images) => (float[n,k] logits) {
  f = Reshape(images, shape)
  logits = Gemm <transB = 1> (f, w)
}"""
INT4 = Target("int4", "int4", 32)


def cfg(iterations=20, **more):
    return AdaRound(method="adaround", iterations=iterations, images=8, rows=64, **more)


def linear(folder, weight):
    path = write(folder, LINEAR.replace("[n,3", f"[n,{weight.shape[1]}"), w=weight, shape=SHAPE)
    return layers(read_onnx(path).graph)[0]


def correlated(rows, inputs, seed=0):
    """Few hidden causes behind many inputs, none of them negative: what a layer behind a ReLU reads."""
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(rows, inputs // 3)) @ draw.normal(size=(inputs // 3, inputs))
    return np.maximum(mixed + 0.3 * draw.normal(size=(rows, inputs)), 0).astype(np.float32)


@pytest.mark.parametrize("target", [Target(), INT4], ids=["int8", "int4"])
@pytest.mark.parametrize("iterations", [0, 200])
def test_the_layers_squared_error_falls_below_nearest_roundings(tmp_path, target, iterations):
    weight, x = random(12, 64), correlated(512, 64)
    layer = linear(tmp_path, weight)
    grid = weight_grid(layer, target)
    found, ratio = round_layer(layer, grid, x[None], (x @ weight.T)[None], iterations, seed=0)

    if target.precision == "int8":
        scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    else:
        scale = np.repeat(np.abs(weight.reshape(12, 2, 32)).max(axis=2) / np.float32(7), 32, axis=1)
    codes = found / scale
    assert np.allclose(codes, np.rint(codes), atol=1e-3)
    up = np.rint(codes) - np.floor(weight / scale)
    assert set(np.unique(up)) <= {0, 1}
    errors = [np.square(x @ (w - weight).T).sum(axis=0) for w in (found, np.rint(weight / scale) * scale)]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert ratio == pytest.approx(errors[0].sum() / errors[1].sum(), rel=1e-3)
    assert ratio < 0.6


def test_of_all_roundings_of_three_weights_no_single_flip_is_better(tmp_path):
    weight, x = np.float32([[0.7, 0.31, -0.24, 1.27]]), correlated(64, 4)
    x = np.abs(random(64, 1)) + 0.05 * x
    found, _ = round_layer(linear(tmp_path, weight), weight_grid(linear(tmp_path, weight), Target()), x[None],
                           (x @ weight.T)[None], 0, seed=0)
    scale = np.float32(1.27) / np.float32(127)
    floor = np.floor(weight[0] / scale)
    error = {up: np.square(x @ ((floor + up) * scale - weight[0])).sum() for up in product((0, 1), repeat=4)}
    mine = tuple(int(v) for v in np.rint(found[0] / scale) - floor)
    flipped = [mine[:i] + (1 - mine[i],) + mine[i + 1 :] for i in range(3)]
    assert all(error[mine] <= error[other] + 1e-9 for other in flipped)


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt", "tensorrt_sm75"])
def test_the_int8_file_holds_the_codes_that_were_learned(tmp_path, rules):
    path, fed = write(tmp_path), images()
    out, found = repaired(path, cfg(), fed=fed)
    ranges = calibrate(path, [fed], MaxCalibrator(method="max"))
    Ranges(ranges.activations, found.weight_amax).save(tmp_path / "ranges.json")
    convert(out, tmp_path / "int8.onnx", "int8", rules, Ranges.load(tmp_path / "ranges.json"), probe=fed)
    moved = 0
    for name in ("a_weight", "b_weight", "c_weight"):
        before, learned, codes = stored(path)[name], stored(out)[name], stored(tmp_path / "int8.onnx")[f"{name}_codes"]
        scale = np.abs(before).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
        assert np.array_equal(codes, np.rint(learned / scale)) and np.array_equal(codes * scale, learned)
        assert (np.abs(codes - np.floor(before / scale) - 0.5) == 0.5).all()
        moved += (codes != np.rint(before / scale)).sum()
    assert moved > 0


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt"])
def test_the_int4_file_holds_the_codes_that_were_learned(tmp_path, rules):
    text = """net (float[n,3,6,6] images) => (float[n,5] logits) {
      a = Conv <pads = [1, 1, 1, 1]> (images, a_weight)
      r = Relu(a)
      p = GlobalAveragePool(r)
      f = Reshape(p, shape)
      logits = Gemm <transB = 1> (f, b_weight)
    }"""
    path, fed = write(tmp_path, text, a_weight=random(64, 3, 3, 3), b_weight=random(5, 64), shape=SHAPE), images()
    out, found = repaired(path, cfg(), INT4, fed=fed)
    assert found.weight_amax == {}
    convert(out, tmp_path / "int4.onnx", "int4", rules, probe=fed)
    for name, blocks in (("a_weight", 1), ("b_weight", 2)):  # 27 inputs: one scale for all; 64: two blocks of 32
        before, learned = (stored(file)[name].reshape(-1, blocks, 64 // blocks if blocks > 1 else 27)
                           for file in (path, out))
        scale = np.abs(before).max(axis=2, keepdims=True) / np.float32(7)
        codes = stored(tmp_path / "int4.onnx")[f"{name}_codes"].astype(np.float32)
        mine = np.rint(learned / scale)
        assert np.allclose(learned, mine * scale, rtol=1e-6)
        stored_rows = codes.T if name == "b_weight" and codes.shape[0] == 64 else codes
        assert np.array_equal(stored_rows.reshape(before.shape), mine)
        assert (mine != np.rint(before / scale)).any()


def test_zeros_that_pruning_made_stay_zeros(tmp_path):
    weights = depthwise_weights()
    for name in ("a_weight", "b_weight", "c_weight"):
        weights[name] = weights[name] * (np.abs(weights[name]) > np.median(np.abs(weights[name])))
    weights["c_weight"][1] = 0
    path = write(tmp_path, **weights)
    for target in (Target(), INT4):
        after = stored(repaired(path, cfg(), target)[0])
        assert all((after[name][weights[name] == 0] == 0).all() for name in ("a_weight", "b_weight", "c_weight"))


def test_the_same_seed_gives_the_same_bytes_however_images_are_batched(tmp_path):
    path, fed = write(tmp_path), images()
    one = repaired(path, cfg(5), fed=fed)[0].read_bytes()
    from toolchain.quantize.repair import repair

    repair(path, tmp_path / "again.onnx", [cfg(5)], Target(), lambda: np.split(fed, 4), seed=0)
    assert (tmp_path / "again.onnx").read_bytes() == one


def test_bias_correction_leaves_a_layer_whose_rounding_was_learned(tmp_path):
    path = write(tmp_path)
    out, found = repaired(path, [BiasCorrection(method="bias_correction"), cfg(5)])
    assert list(found.done) == ["adaround", "bias_correction"] and "nothing to correct" in found.done["bias_correction"][1]


@pytest.mark.parametrize("attributes, size", [
    ("pads = [1, 0, 2, 1], strides = [2, 3], dilations = [2, 1]", (4, 2, 3, 2)), ("group = 3", (6, 1, 3, 3))])
def test_patches_times_weights_are_the_convolutions_output(tmp_path, attributes, size):
    channels = size[1] * (3 if "group" in attributes else 1)
    path = write(tmp_path, f"net (float[n,{channels},7,8] x) => (float[n,k,h,w] y) {{\ny = Conv <{attributes}> (x, w)\n}}",
                 w=random(*size))
    x = random(1, channels, 7, 8)
    layer, expected = layers(read_onnx(path).graph)[0], values(path, x)
    count = positions(layer, x)
    assert count == expected[0, 0].size
    at = np.arange(count)[::-2]
    found = patches(layer, x, at) @ as_rows(layer, layer.array).transpose(0, 2, 1)  # (groups, positions, outputs)
    assert np.allclose(found.transpose(0, 2, 1).reshape(len(expected[0]), -1), expected[0].reshape(-1, count)[:, at],
                       atol=1e-5)


def test_a_convolution_whose_padding_is_not_written_out_is_left_alone_by_name(tmp_path):
    path = write(tmp_path, DEPTHWISE.replace("Conv (images", 'Conv <auto_pad = "SAME_UPPER"> (images'))
    out, found = repaired(path, cfg(2))
    assert "2 layers" in found.done["adaround"][1] and "auto_pad SAME_UPPER" in found.done["adaround"][1]
    assert np.array_equal(stored(out)["a_weight"], stored(path)["a_weight"])
    assert isinstance(read_onnx(out), ir.Model)

"""GPFQ over small ONNX networks: the right inputs reach each layer, and engines get the codes that were chosen."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from toolchain.errors import DataError, OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.calibrate import calibrate
from toolchain.quantize.gpfq_network import facts, quantize_network, rows_of, weight_amax, write_quantized
from toolchain.ranges import Ranges
from toolchain.recipe.schema import Gpfq, MaxCalibrator

F32 = np.float32
CHANNEL = Gpfq(method="gpfq", bits=4, radius="channel", patches=1.0)
NET = """
net (float[{n},3,8,8] images) => (float[{n},5] logits) {{
  a = Conv <pads = [1,1,1,1]> (images, first, bias)
  r = Relu(a)
  b = Conv <strides = [2,2], pads = [1,1,1,1], dilations = [2,2], group = 2> (r, second)
  s = Relu(b)
  f = Flatten(s)
  logits = Gemm <transB = 1> (f, head, head_bias)
}}
"""


@pytest.fixture
def parse(tmp_path):
    def write(text, name="net.onnx", **initializers):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
        for key, value in initializers.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, F32), key))
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {"first": rng.normal(size=(16, 3, 3, 3)), "bias": rng.normal(size=16), "second": rng.normal(size=(8, 8, 3, 3)),
            "head": rng.normal(size=(5, 72)), "head_bias": rng.normal(size=5)}


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(6, 3, 8, 8)).astype(F32)


def recursion(w, x, xq, d, largest):
    """GPFQ's codes (N, d), straight from the paper: no blocks, no groups, float64."""
    u, codes = np.zeros((len(w), len(x))), np.zeros(w.shape, int)
    for t in range(w.shape[1]):
        u += np.outer(w[:, t], x[:, t])
        norm = xq[:, t] @ xq[:, t]
        wanted = u @ xq[:, t] / norm if norm > 0 else np.zeros(len(w))
        codes[:, t] = np.clip(np.floor(wanted / d + 0.5), -largest, largest)
        u -= np.outer(codes[:, t] * d, xq[:, t])
    return codes


def unfolded(value, **window):
    """torch's patches of (n, C, H, W), all of them: (n * L, C * kh * kw) float64."""
    patches = torch.nn.functional.unfold(torch.from_numpy(value).double(), 3, **window)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1]).numpy()


def test_a_network_of_strided_dilated_grouped_layers_gets_the_codes_of_the_paper(parse, weights, images):
    path = parse(NET.format(n="n"), **weights)
    done = quantize_network(path, images, CHANNEL, seed=0)
    with torch.no_grad():
        t = {name: torch.from_numpy(np.asarray(w, F32)) for name, w in weights.items()}
        conv = torch.nn.functional.conv2d
        r = conv(torch.from_numpy(images), t["first"], t["bias"], padding=1).relu()
        rq = conv(torch.from_numpy(images), torch.from_numpy(done["first"].weight.values), t["bias"], padding=1).relu()
        shape = {"stride": 2, "padding": 1, "dilation": 2}
        s = conv(r, t["second"], groups=2, **shape).relu().flatten(1)
        sq = conv(rq, torch.from_numpy(done["second"].weight.values), groups=2, **shape).relu().flatten(1)

    def expected(name, x, xq):
        w = np.asarray(weights[name], F32).astype(float)
        w = w.reshape(len(w), -1)
        d = (1.16 * np.abs(w).max(axis=1) / 7).astype(F32)
        return recursion(w, x, xq, d.astype(float), 7), d

    x = unfolded(images, padding=1)
    codes, scale = expected("first", x, x)
    assert (done["first"].weight.codes.reshape(16, -1) == codes).all()
    assert done["first"].weight.scale == pytest.approx(scale, rel=1e-6)
    for group in range(2):  # four neurons that see eight channels each
        half = slice(8 * group, 8 * group + 8)
        xs = [unfolded(np.ascontiguousarray(v.numpy()[:, half]), **shape) for v in (r, rq)]
        w = np.asarray(weights["second"], F32)[4 * group : 4 * group + 4].reshape(4, -1).astype(float)
        d = (1.16 * np.abs(w).max(axis=1) / 7).astype(F32).astype(float)
        found = done["second"].weight.codes[4 * group : 4 * group + 4].reshape(4, -1)
        assert (found == recursion(w, *xs, d, 7)).mean() > 0.99  # torch and onnxruntime differ in the last bit of X~
    assert (done["head"].weight.codes == expected("head", s.numpy().astype(float), sq.numpy().astype(float))[0]).mean() > 0.98
    assert [done[name].rows for name in ("first", "second", "head")] == [6 * 64, 6 * 9, 6]


@pytest.mark.parametrize("attributes", [
    "strides = [2,2]", "pads = [1,2,0,1]", "dilations = [2,1], strides = [1,3]", 'auto_pad = "SAME_UPPER", strides = [2,2]',
    'auto_pad = "SAME_LOWER"', "group = 2, pads = [1,1,1,1], strides = [2,2]",
])
def test_patches_times_the_weight_are_the_convolution(parse, attributes):
    rng = np.random.default_rng(0)
    groups = 2 if "group" in attributes else 1
    w, x = rng.normal(size=(6, 4 // groups, 3, 2)).astype(F32), rng.normal(size=(1, 4, 9, 8)).astype(F32)
    path = parse(f"net (float[1,4,9,8] x) => (float[n,6,h,v] y) {{ y = Conv <{attributes}> (x, w) }}", w=w)
    expected = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0][0]  # (6, h, v)
    rows = rows_of(layers(read_onnx(path).graph)[0], x, 1.0, (0,))
    found = rows @ w.reshape(groups, 6 // groups, -1).swapaxes(1, 2)  # (g, positions, n)
    assert found.swapaxes(1, 2).reshape(expected.shape) == pytest.approx(expected, abs=1e-5)


def test_a_share_of_the_patches_is_drawn_without_replacement_by_the_seed(parse):
    x = np.arange(2 * 64, dtype=F32).reshape(1, 2, 8, 8)
    path = parse("net (float[1,2,8,8] x) => (float[1,1,8,8] y) { y = Conv (x, w) }", w=np.ones((1, 2, 1, 1)))
    layer = layers(read_onnx(path).graph)[0]
    rows = rows_of(layer, x, 0.25, (3, 1))[0]
    assert rows.shape == (16, 2) and len(set(rows[:, 0].tolist())) == 16 and (rows[:, 1] == rows[:, 0] + 64).all()
    assert (rows_of(layer, x, 0.25, (3, 1))[0] == rows).all() and (rows_of(layer, x, 0.25, (4, 1))[0] != rows).any()
    assert rows_of(layer, x, 0.001, (0,)).shape[1] == 1  # at least one


def test_a_matmul_and_a_weight_used_twice(parse):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(12, 12)).astype(F32)
    path = parse("net (float[n,3,2,2] x) => (float[n,12] y) { f = Flatten(x) a = MatMul(f, w) r = Relu(a) y = MatMul(r, w) }", w=w)
    x = rng.normal(size=(8, 3, 2, 2)).astype(F32)
    done = quantize_network(path, x, CHANNEL, seed=0)
    d = (1.16 * np.abs(w).max(axis=0) / 7).astype(F32)  # output channels are the columns
    rows = x.reshape(8, 12).astype(float)
    assert (done["w"].weight.codes.T == recursion(w.T.astype(float), rows, rows, d.astype(float), 7)).all()


def test_a_fixed_batch_gives_the_same_codes(parse, weights, images):
    free = quantize_network(parse(NET.format(n="n"), **weights), images, CHANNEL, seed=0)
    fixed = quantize_network(parse(NET.format(n=4), "fixed.onnx", **weights), images, CHANNEL, seed=0)
    assert all((fixed[name].weight.codes == layer.weight.codes).mean() > 0.98 for name, layer in free.items())


@pytest.mark.parametrize("cfg", [
    Gpfq(method="gpfq", bits=4, radius="channel"), Gpfq(method="gpfq", bits=2, alphabet="study"),
    Gpfq(method="gpfq", bits=8), Gpfq(method="gpfq", bits=6, alphabet="study", radius="channel"),
    Gpfq(method="gpfq", bits=3, sparse={"l1": 0.2}),
], ids=str)
@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt", "tensorrt_sm75"])
def test_engines_hold_exactly_the_codes_that_were_chosen(parse, weights, images, tmp_path, cfg, rules):
    weights["first"][3] = 0  # a channel of zeros
    path = parse(NET.format(n="n"), **weights)
    done = quantize_network(path, images, cfg, seed=0)
    write_quantized(path, done, tmp_path / "gpfq.onnx")
    stored = {name: layer.weight for name, layer in done.items()}
    for precision in cfg.precisions:
        steps = {"int4": 7}.get(precision, 127)
        activations = calibrate(tmp_path / "gpfq.onnx", [images], MaxCalibrator(method="max")).activations
        ranges = Ranges(activations if precision == "int8" else {}, weight_amax(stored, steps))
        info = convert(tmp_path / "gpfq.onnx", tmp_path / "out.onnx", precision, rules, ranges, probe=images)
        file = {i.name: i for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
        for name, weight in stored.items():
            codes = onnx.numpy_helper.to_array(file[f"{name}_codes"]).astype(int)
            transposed = precision == "int4" and name == "head" and f"{name}_cast" not in file and codes.shape[0] == 72
            expected = weight.codes.T if transposed else weight.codes
            assert (codes.reshape(expected.shape) == expected).all(), (precision, name)
        if precision == "int4":  # float activations: but for FP16's rounding the file computes what GPFQ's network does
            assert info["gap"]["relative"] < (1e-5 if rules == "cpu_x86" else 5e-3)


def test_a_depthwise_layer_in_the_int4_file_keeps_the_codes_in_int8(parse, tmp_path):
    rng = np.random.default_rng(0)
    path = parse("""net (float[n,3,4,4] x) => (float[n,3] y) {
      a = Conv <group = 3, pads = [1,1,1,1]> (x, w)
      p = GlobalAveragePool(a)
      y = Flatten(p) }""", w=rng.normal(size=(3, 1, 3, 3)))
    done = quantize_network(path, rng.normal(size=(4, 3, 4, 4)).astype(F32), CHANNEL, seed=0)
    write_quantized(path, done, tmp_path / "gpfq.onnx")
    ranges = Ranges({}, weight_amax({"w": done["w"].weight}, 7))
    info = convert(tmp_path / "gpfq.onnx", tmp_path / "out.onnx", "int4", "openvino", ranges)
    file = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert info["layers"][0]["precision"] == "int8_weight_only"
    assert (file["w_codes"].astype(int) == done["w"].weight.codes).all()


def test_weight_ranges_of_another_network_are_refused(parse, tmp_path, weights):
    path = parse(NET.format(n="n"), **weights)
    with pytest.raises(OnnxError, match="layer first: 3 weight ranges for 16 output channels"):
        convert(path, tmp_path / "out.onnx", "int4", "openvino", Ranges({}, {"first": [1.0, 1.0, 1.0]}))


def test_first_and_last_layer_stay_float_where_the_engine_keeps_them_float(parse, weights, images):
    cfg = CHANNEL.model_copy(update={"int4": CHANNEL.int4.model_copy(update={"first_last": "float"})})
    assert list(quantize_network(parse(NET.format(n="n"), **weights), images, cfg, seed=0)) == ["second"]


def test_facts_add_up(parse, weights, images):
    cfg = Gpfq(method="gpfq", bits=2, alphabet="study")
    found = facts(quantize_network(parse(NET.format(n="n"), **weights), images, cfg, seed=0), cfg)
    # 432, 576 and 360 weights, 27 of five levels in 8 bytes: 16, 22 and 14 words; one float32 scale per layer
    assert [layer["packed_bytes"] for layer in found["layers"]] == [16 * 8 + 4, 22 * 8 + 4, 14 * 8 + 4]
    assert (found["packed_bytes"], found["float_bytes"], found["parameters"]) == (428, 4 * 1368, 1368)
    assert found["layers"][0]["coding"] == "27 base-5 digits in 8 bytes" and found["precisions"] == ["int4", "int8_weight_only", "int8"]
    assert all(0 < layer["relative_error"] < layer["nearest_relative_error"] for layer in found["layers"])


def test_what_cannot_be_quantized_is_refused_by_name(parse, weights, images):
    path = parse(NET.format(n="n"), **weights)
    with pytest.raises(DataError, match="no calibration images"):
        quantize_network(path, images[:0], CHANNEL, seed=0)
    with pytest.raises(DataError, match=r"float32 \(6, 3, 4, 4\); expected float32 \(n, 3, 8, 8\)"):
        quantize_network(path, images[:, :, :4, :4], CHANNEL, seed=0)
    with pytest.raises(OnnxError, match="'images' holds NaN or infinity for calibration image 2"):
        quantize_network(path, np.where(np.arange(6)[:, None, None, None] == 2, F32(np.nan), images), CHANNEL, seed=0)
    dead = parse(NET.format(n="n"), "dead.onnx", **weights | {"bias": np.full(16, -1e6)})
    with pytest.raises(OnnxError, match="layer second: its input 'r' is zero for all 6 calibration images"):
        quantize_network(dead, images, CHANNEL, seed=0)
    with pytest.raises(OnnxError, match="layer first: quantize.sparse.l0 is 9"):
        quantize_network(path, images, Gpfq(method="gpfq", sparse={"l0": 9}), seed=0)

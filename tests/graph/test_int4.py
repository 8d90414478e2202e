"""INT4 codes worked by hand, blocks that every runtime takes, and real half bytes in the file."""

import numpy as np
import onnx
import onnxruntime
import pytest

from toolchain.engines.ort_session import session_options
from toolchain.graph.convert import convert
from toolchain.graph.int4 import block_length, int4_codes
from toolchain.graph.storage import weight_bytes
from toolchain.quantize.calibrate import calibrate
from toolchain.recipe.schema import Int4, MaxCalibrator

F32 = np.float32


def test_codes_and_scales_are_those_worked_by_hand():
    # blocks of 2: amax 7 -> scale 1; amax 14 -> scale 2, 1 / 2 = 0.5 rounds half to even to 0; zeros -> scale 1
    codes, scale = int4_codes(F32([[7, -2.6, 14, 1, 0, 0]]), 2, F32)
    assert scale.tolist() == [[1, 2, 1]]
    assert codes.astype(int).tolist() == [[7, -3, 7, 0, 0, 0]]


def test_codes_are_rounded_with_the_scale_as_stored():
    # amax 0.1 / 7 = 0.0142857 is 0.014282 in FP16: 0.1 / 0.014282 = 7.0018 -> 7
    codes, scale = int4_codes(F32([[0.1, -0.05]]), 2, np.float16)
    assert scale.dtype == np.float16 and codes.astype(int).tolist() == [[7, -4]]


@pytest.mark.parametrize(("inputs", "block", "length"), [
    (576, 32, 32), (27, 32, 27), (144, 32, 36), (9, 32, 9), (16 * 49, 32, 28), (1024, 128, 128), (37, 32, 37), (67, 32, 67),
])
def test_a_block_always_divides_the_inputs(inputs, block, length):
    assert block_length(inputs, block) == length and inputs % length == 0


@pytest.mark.parametrize(("rules", "largest"), [("cpu_x86", 5.15), ("tensorrt", 4.6)])
def test_a_weight_takes_four_bits_and_its_share_of_a_scale(float_onnx, tmp_path, rules, largest):
    source = float_onnx("resnet18")
    convert(source, tmp_path / "int4.onnx", "int4", rules)
    bits = 32 * weight_bytes(tmp_path / "int4.onnx") / weight_bytes(source)
    assert 4.5 <= bits < largest


def test_codes_are_stored_as_int4_two_per_byte(float_onnx, tmp_path):
    convert(float_onnx("vgg"), tmp_path / "int4.onnx", "int4", "tensorrt")
    codes = [i for i in onnx.load(tmp_path / "int4.onnx").graph.initializer if i.name.endswith("_codes")]
    assert len(codes) == 9 and {i.data_type for i in codes} == {onnx.TensorProto.INT4}
    assert all(len(i.raw_data) == -(-int(np.prod(i.dims)) // 2) for i in codes)


CONV = "net (float[n,32,4,4] x) => (float[n,8,4,4] y) { y = Conv <pads = [1,1,1,1]> (x, w) }"
LINEAR = "net (float[n,64] x) => (float[n,5] y) { y = Gemm <transB = 1> (x, w, b) }"


@pytest.mark.parametrize("rules", ["cpu_x86", "openvino"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_file_computes_with_the_weights_the_formula_gives(parse, tmp_path, run_onnx, rules, kind):
    rng = np.random.default_rng(0)
    shape = (8, 32, 3, 3) if kind == "conv" else (5, 64)
    w = rng.normal(size=shape).astype(F32)
    blocks = w.reshape(shape[0], -1, 32)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / F32(7)
    rounded = (np.clip(np.rint(blocks / scale), -8, 7) * scale).reshape(shape)
    x = rng.normal(size=(2, 32, 4, 4) if kind == "conv" else (2, 64)).astype(F32)
    text, bias = (CONV, {}) if kind == "conv" else (LINEAR, {"b": rng.normal(size=5).astype(F32)})
    convert(parse(text, w=w, **bias), tmp_path / "int4.onnx", "int4", rules)
    expected = run_onnx(parse(text, "rounded.onnx", w=rounded, **bias), x)
    assert run_onnx(tmp_path / "int4.onnx", x) == pytest.approx(expected, abs=1e-4)


def test_onnxruntime_reads_linear_layers_packed_and_unpacks_convolutions_once(float_onnx, tmp_path, optimized_ops):
    convert(float_onnx("vgg"), tmp_path / "int4.onnx", "int4", "cpu_x86")
    ops = optimized_ops(tmp_path / "int4.onnx")
    assert ops["MatMulNBits"] == 3 and not {"DequantizeLinear", "Cast", "Mul", "Gemm", "FusedGemm"} & set(ops), ops


def test_depthwise_layers_keep_eight_bits_and_the_report_says_so(float_onnx, tmp_path):
    info = convert(float_onnx("mobilenet_v2"), tmp_path / "int4.onnx", "int4", "tensorrt")
    found = [layer["precision"] for layer in info["layers"]]
    # 17 depthwise layers with 9 inputs, and at half width one pointwise layer with 8
    assert found.count("int8_weight_only") == 18 and found.count("int4") == 35


def test_first_and_last_layer_stay_float_when_asked(float_onnx, tmp_path):
    info = convert(float_onnx("vgg"), tmp_path / "int4.onnx", "int4", "tensorrt", int4=Int4(first_last="float"))
    found = [layer["precision"] for layer in info["layers"]]
    assert found == ["fp16", *["int4"] * 7, "fp16"]


TIED = """net (float[n,48] x) => (float[n,48] y) {
    a = Gemm <transB = 1> (x, w)
    r = Relu (a)
    y = Gemm (r, w)
}"""


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt", "openvino"])
@pytest.mark.parametrize("precision", ["int8", "int4", "int8_weight_only"])
def test_a_weight_that_serves_once_as_it_is_and_once_transposed_is_stored_for_each(parse, tmp_path, precision, rules):
    rng = np.random.default_rng(0)
    source = parse(TIED, w=rng.normal(size=(48, 48)).astype(F32) / 7)
    images = rng.normal(size=(64, 48)).astype(F32)
    found = calibrate(source, [images], MaxCalibrator(method="max"))
    info = convert(source, tmp_path / "out.onnx", precision, rules, found, probe=images)
    assert info["gap"]["relative"] < {"int8": 0.03, "int4": 0.2, "int8_weight_only": 0.02}[precision]


def test_linear_layers_of_int4_weights_multiply_unrounded_activations(parse, tmp_path):
    rng = np.random.default_rng(1)
    source = parse("net (float[n,64] x) => (float[n,32] y) { y = MatMul (x, w) }", w=rng.normal(size=(64, 32)).astype(F32))
    images = rng.normal(size=(16, 64)).astype(F32)
    convert(source, tmp_path / "int4.onnx", "int4", "cpu_x86", probe=images)
    codes, scale = int4_codes(np.ascontiguousarray(onnx.numpy_helper.to_array(onnx.load(source).graph.initializer[0]).T), 32, F32)
    weight = (codes.astype(F32).reshape(32, 2, 32) * scale[:, :, None]).reshape(32, 64)
    options = session_options(threads=1)
    session = onnxruntime.InferenceSession(tmp_path / "int4.onnx", options, providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"x": images})[0] - images @ weight.T).max() < 1e-4

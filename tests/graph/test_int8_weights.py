"""INT8 weights alone: codes worked in numpy, one byte a weight in the file, nothing left to decode at every run."""

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.storage import weight_bytes
from toolchain.ranges import Ranges
from toolchain.recipe.schema import Int8

F32 = np.float32
CONV = "net (float[n,32,4,4] x) => (float[n,8,4,4] y) { y = Conv <pads = [1,1,1,1]> (x, w) }"
LINEAR = "net (float[n,64] x) => (float[n,5] y) { y = Gemm <transB = 1> (x, w, b) }"
PRODUCT = "net (float[n,64] x) => (float[n,5] y) { y = MatMul(x, w) }"
FORMS = {"conv": (CONV, (8, 32, 3, 3), 0), "linear": (LINEAR, (5, 64), 0), "product": (PRODUCT, (64, 5), 1)}


@pytest.mark.parametrize("rules", ["cpu_x86", "openvino"])
@pytest.mark.parametrize("form", FORMS)
def test_the_file_computes_with_the_weights_the_formula_gives(parse, tmp_path, run_onnx, rules, form):
    text, shape, axis = FORMS[form]
    rng = np.random.default_rng(0)
    w = rng.normal(size=shape).astype(F32)
    w[(slice(None),) * axis + (1,)] = 0  # a channel of zeros stays zero
    scale = np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis), keepdims=True) / F32(127)
    rounded = np.clip(np.rint(w / np.where(scale > 0, scale, 1)), -127, 127) * scale
    x = rng.normal(size=(2, 32, 4, 4) if form == "conv" else (2, 64)).astype(F32)
    bias = {"b": rng.normal(size=5).astype(F32)} if form == "linear" else {}
    info = convert(parse(text, w=w, **bias), tmp_path / "out.onnx", "int8_weight_only", rules)
    assert [layer["precision"] for layer in info["layers"]] == ["int8_weight_only"]
    expected = run_onnx(parse(text, "rounded.onnx", w=rounded.astype(F32), **bias), x)
    assert run_onnx(tmp_path / "out.onnx", x) == pytest.approx(expected, abs=1e-4)


def test_known_ranges_of_weights_are_used_and_must_fit_the_network(parse, tmp_path, run_onnx):
    # amax 254 -> scale 2: 3 / 2 = 1.5 rounds half to even to 2 -> 4.0
    path = parse("net (float[n,1] x) => (float[n,1] y) { y = MatMul(x, w) }", w=F32([[3.0]]))
    convert(path, tmp_path / "out.onnx", "int8_weight_only", "openvino", Ranges({}, {"w": [254.0]}))
    assert run_onnx(tmp_path / "out.onnx", F32([[1]])).tolist() == [[4.0]]
    with pytest.raises(OnnxError, match="2 weight ranges for 1 output channels"):
        convert(path, tmp_path / "out.onnx", "int8_weight_only", "openvino", Ranges({}, {"w": [1.0, 2.0]}))


def test_a_weight_takes_one_byte_and_onnxruntime_decodes_it_once(float_onnx, tmp_path, optimized_ops):
    out = tmp_path / "out.onnx"
    convert(float_onnx("resnet18"), out, "int8_weight_only", "cpu_x86")
    assert 8 <= 32 * weight_bytes(out) / weight_bytes(float_onnx("resnet18")) < 8.1
    assert not {"DequantizeLinear", "Cast", "Mul"} & set(optimized_ops(out))
    codes = [i for i in onnx.load(out).graph.initializer if i.name.endswith("_codes")]
    assert len(codes) == 21 and {i.data_type for i in codes} == {onnx.TensorProto.INT8}


def test_layers_stay_float_where_quantize_int8_says_so(float_onnx, tmp_path):
    names = [layer["name"] for layer in convert(float_onnx("vgg"), tmp_path / "a.onnx", "fp32", "tensorrt")["layers"]]
    info = convert(float_onnx("vgg"), tmp_path / "out.onnx", "int8_weight_only", "tensorrt",
                   int8=Int8(first_last="float", keep_float=(names[2],)))
    assert [layer["precision"] for layer in info["layers"]] == [
        "fp16", "int8_weight_only", "fp16", *["int8_weight_only"] * 5, "fp16"]


def test_a_weight_shared_by_two_layers_is_stored_once(parse, tmp_path):
    text = "net (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, w) }"
    convert(parse(text, w=np.eye(4, dtype=F32)), tmp_path / "out.onnx", "int8_weight_only", "cpu_x86")
    assert sum(i.data_type == onnx.TensorProto.INT8 for i in onnx.load(tmp_path / "out.onnx").graph.initializer) == 1

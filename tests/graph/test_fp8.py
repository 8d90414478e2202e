"""FP8 (E4M3): codes worked by hand, the file against numpy and ml_dtypes, and layers that no GPU has a kernel for."""

import ml_dtypes
import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.compare import run
from toolchain.graph.convert import convert
from toolchain.graph.fp8 import fp8_codes
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.schema import Int8

F32, E4M3 = np.float32, ml_dtypes.float8_e4m3fn
LINEAR = "net (float[n,64] x) => (float[n,5] y) { y = Gemm <transB = 1> (x, w, b) }"


def test_codes_are_those_worked_by_hand():
    # amax 448 -> scale 1. Steps are 2 from 16 to 32: 17 ties to 16, 19 to 20 (even fractions); the smallest step is
    # 2^-9, half of which ties to 0. Row 2: amax 224 -> scale 1/2, so 1.0 is code 2. Row 3: zeros -> scale 1.
    codes, scale = fp8_codes(F32([[448, 17, 19, 2**-10], [-224, 1, 0, 0.5], [0, 0, 0, 0]]), None, 0, F32)
    assert scale.tolist() == [1, 0.5, 1]
    assert codes.astype(F32).tolist() == [[448, 16, 20, 0], [-448, 2, 0, 1], [0, 0, 0, 0]]


def test_values_beyond_a_learned_range_saturate_instead_of_becoming_nan():
    codes, _ = fp8_codes(F32([[900, -1e9]]), [448.0], 0, F32)
    assert codes.view(np.uint8).tolist() == [[0x7E, 0xFE]]  # S.1111.110: the largest; S.1111.111 would be NaN


def test_the_file_computes_what_numpy_does_with_the_same_codes(parse, tmp_path):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(5, 64)).astype(F32), rng.normal(size=5).astype(F32)
    x = rng.normal(size=(9, 64)).astype(F32)
    x[0, 0] = 40  # beyond the range: saturates at 4
    ranges = Ranges({"x": ActivationRange(-4.0, 3.0, 2.0)}, {})  # amax 2 is an INT8 calibrator's clip; FP8 keeps all
    info = convert(parse(LINEAR, w=w, b=b), tmp_path / "fp8.onnx", "fp8", "tensorrt", ranges, probe=x)
    assert [layer["precision"] for layer in info["layers"]] == ["fp8"]
    step = np.float16(4 / 448).astype(F32)
    steps = (np.abs(w).max(axis=1, keepdims=True) / 448).astype(np.float16).astype(F32)
    coded_x = np.clip(x.astype(np.float16).astype(F32) / step, -448, 448).astype(E4M3).astype(F32) * step
    coded_w = np.clip(w / steps, -448, 448).astype(E4M3).astype(F32) * steps
    expected = coded_x @ coded_w.T + b
    found = run(tmp_path / "fp8.onnx", x, optimize=False)
    assert found == pytest.approx(expected, abs=0.02)  # FP16 rounds the sums
    assert np.abs(found - (x @ w.T + b))[1:].max() > 0.1  # what it would be without codes lies far away


def test_weights_are_e4m3_bytes_with_a_scale_per_channel(float_onnx, ranges, tmp_path):
    convert(float_onnx("vgg"), tmp_path / "fp8.onnx", "fp8", "tensorrt", ranges("vgg"))
    stored = {i.name: i for i in onnx.load(tmp_path / "fp8.onnx").graph.initializer}
    codes = [name for name in stored if name.endswith("_codes")]
    assert len(codes) == 8  # 5 convolutions and 3 linear layers; the first convolution reads 3 channels
    assert {stored[name].data_type for name in codes} == {onnx.TensorProto.FLOAT8E4M3FN}
    assert all(stored[name[:-6] + "_scale"].dims == stored[name].dims[:1] for name in codes)


def test_layers_without_fp8_kernels_stay_fp16_and_the_report_says_so(float_onnx, ranges, tmp_path):
    info = convert(float_onnx("mobilenet_v2"), tmp_path / "fp8.onnx", "fp8", "tensorrt", ranges("mobilenet_v2"))
    found = [layer["precision"] for layer in info["layers"]]
    # float: the first, 17 depthwise, and at half width the two with 8 channels on one side
    assert set(found) == {"fp8", "fp16"} and found.count("fp16") == 20


def test_layers_stay_float_where_quantize_int8_says_so(float_onnx, ranges, tmp_path):
    names = [layer["name"] for layer in convert(float_onnx("vgg"), tmp_path / "a.onnx", "fp32", "tensorrt")["layers"]]
    info = convert(float_onnx("vgg"), tmp_path / "out.onnx", "fp8", "tensorrt", ranges("vgg"),
                   int8=Int8(first_last="float", keep_float=(names[2],)))
    assert [layer["precision"] for layer in info["layers"]] == ["fp16", "fp8", "fp16", *["fp8"] * 5, "fp16"]


@pytest.mark.parametrize("rules", ["cpu_x86", "openvino", "tensorrt_sm75"])
def test_a_target_without_fp8_is_refused_and_nothing_is_written(float_onnx, ranges, tmp_path, rules):
    with pytest.raises(OnnxError, match="fp8: this target has no FP8 arithmetic; use int8"):
        convert(float_onnx("vgg"), tmp_path / "out.onnx", "fp8", rules, ranges("vgg"))
    assert not (tmp_path / "out.onnx").exists()

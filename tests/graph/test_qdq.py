"""INT8 codes worked by hand, and Q/DQ where each target can use them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.compare import run
from toolchain.graph.convert import convert
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.graph.qdq import code_grid, quantize_int8, weight_codes
from toolchain.graph.rules import RULES
from toolchain.quantize.calibrate import calibrate
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.schema import Int8, MaxCalibrator

U8, I8, F32 = np.uint8, np.int8, np.float32
NETWORKS = ["vgg", "resnet18", "mobilenet_v2"]


def test_weight_codes_are_those_worked_by_hand():
    # amax 12.7 and 254: scales 0.1 and 2. 0.25 / 0.1 = 2.5 and 3 / 2 = 1.5 round half to even: 2 and 2
    codes, scale = weight_codes(F32([[12.7, -12.7, 0.25], [-254, 3, 2]]), None, 0, F32)
    assert scale == pytest.approx([0.1, 2.0])
    assert codes.tolist() == [[127, -127, 2], [-127, 2, 1]] and codes.dtype == I8


def test_a_channel_of_zeros_has_scale_one_and_codes_zero():
    codes, scale = weight_codes(np.zeros((2, 4), F32), None, 0, F32)
    assert scale.tolist() == [1, 1] and not codes.any()


def test_a_learned_amax_clips_symmetrically():
    assert weight_codes(F32([[2.0, -2.0, 0.5]]), [1.0], 0, F32)[0].tolist() == [[127, -127, 64]]  # 63.5 -> 64


def test_output_channels_of_a_matmul_are_its_columns():
    assert weight_codes(F32([[127, 0], [0, 254]]), None, 1, F32)[1].tolist() == [1, 2]


@pytest.mark.parametrize(("low", "form", "upper", "scale", "zero_point"), [
    (-3.0, "s8", None, 0.1, I8(0)), (0.0, "s8", 6.0, 0.1, I8(0)),
    (-3.0, "u8", None, 0.1, U8(128)), (0.0, "u8", None, 0.1, U8(0)),
    (0.0, "u8", 20.4, 0.08, U8(0)),  # Clip at 20.4: 255 steps of 0.08 end there, finer than 0.1
    (0.0, "u8", 30.0, 0.1, U8(0)),  # 255 steps of 0.1 end at 25.5, below the Clip already
])
def test_activation_grids_worked_by_hand(low, form, upper, scale, zero_point):
    found, zero = code_grid(ActivationRange(low, 12.7, 12.7), form, upper)
    assert found == pytest.approx(scale) and zero == zero_point and zero.dtype == zero_point.dtype
    if scale == 0.08:
        assert F32(found) * F32(255) <= F32(20.4)  # or ONNX Runtime keeps the Clip


@pytest.mark.parametrize(("low", "form", "upper", "scale", "zero_point"), [
    (0.0, "s8", None, 0.1, I8(0)), (-3.0, "u8", None, 0.1, U8(128)), (-3.0, "s8_shifted", None, 0.1, I8(0)),
    (0.0, "u8", None, 12.7 / 255, U8(0)), (0.0, "s8_shifted", None, 12.7 / 255, I8(-128)),
    (0.0, "u8", 5.1, 0.02, U8(0)), (0.0, "u8", 20.4, 12.7 / 255, U8(0)),  # Clip at 5.1 or 20.4: the lower bound counts
    (0.0, "u8", float(F32(12.7)), 12.7 / 255, U8(0)),
])
def test_where_training_clipped_the_largest_code_is_amax_whatever_the_type(low, form, upper, scale, zero_point):
    found, zero = code_grid(ActivationRange(low, 20, float(F32(12.7)), clips=True), form, upper)
    assert found == pytest.approx(scale) and zero == zero_point and zero.dtype == zero_point.dtype
    if form != "s8" and low == 0:
        assert F32(found) * F32(255) <= min(upper or 99, F32(12.7))  # or ONNX Runtime keeps the Clip


@pytest.mark.parametrize("form", ["s8", "u8"])
def test_a_tensor_that_is_always_zero_has_scale_one(form):
    assert code_grid(ActivationRange(0, 0, 0), form, None)[0] == 1.0
    assert code_grid(ActivationRange(0, 0, 0, clips=True), form, None)[0] == 1.0


def quantized(float_onnx, ranges, tmp_path, name, rules, **cfg):
    out = tmp_path / f"{name}.{rules}.onnx"
    info = convert(float_onnx(name), out, "int8", rules, ranges(name), int8=Int8(**cfg))
    return out, info


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_runs_every_layer_in_integers(float_onnx, ranges, tmp_path, optimized_ops, name):
    """Not one float convolution, Add or Gemm is left: this is where INT8's speed comes from."""
    path, info = quantized(float_onnx, ranges, tmp_path, name, "cpu_x86")
    ops = optimized_ops(path)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "GlobalAveragePool", "Clip", "Relu"} & set(ops), ops
    assert ops["QLinearConv"] + ops["QGemm"] == len(info["layers"])
    assert ops["QuantizeLinear"] == 1 and ops.get("QLinearAdd", 0) == {"vgg": 0, "resnet18": 8, "mobilenet_v2": 10}[name]


def zero_points(path):
    """Operator of each layer -> whether the DequantizeLinear of its weight reads a zero_point."""
    found = [(node.op_type, len(node.inputs[1].producer().inputs) == 3) for node in read_onnx(path).graph
             if node.op_type in ("Conv", "Gemm")]
    return {op: {has for each, has in found if each == op} for op, _ in found}


@pytest.mark.parametrize(("rules", "kept"), [("cpu_x86", False), ("cpu_arm", False), ("openvino", False), ("tensorrt", True)])
@pytest.mark.parametrize("name", ["vgg", "mobilenet_v2"])  # with depthwise convolutions
def test_a_convolutions_weight_carries_no_zero_point_on_cpus_and_a_linear_layers_does(float_onnx, ranges, tmp_path, rules, kept, name):
    path, _ = quantized(float_onnx, ranges, tmp_path, name, rules)
    assert zero_points(path) == {"Conv": {kept}, "Gemm": {True}}


@pytest.mark.parametrize("name", ["vgg", "mobilenet_v2"])
def test_without_its_zero_points_a_file_gives_the_same_logits_bit_for_bit(float_onnx, ranges, probe, tmp_path, name):
    images, found, sizes = probe(32), [], []
    for lean in (True, False):
        model = read_onnx(float_onnx(name))
        quantize_int8(model, replace(RULES["cpu_x86"], lean=lean), ranges(name), "int8")
        write_onnx(model, tmp_path / "q.onnx", lean=lean)
        found.append(run(tmp_path / "q.onnx", images))
        sizes.append((tmp_path / "q.onnx").stat().st_size)
    assert (found[0] == found[1]).all() and sizes[0] < sizes[1]


@pytest.mark.parametrize(("rules", "told"), [("cpu_x86", False), ("openvino", False), ("tensorrt", True)])
def test_a_file_for_cpus_tells_the_types_of_stored_tensors_once(float_onnx, ranges, tmp_path, rules, told):
    graph = onnx.load(quantized(float_onnx, ranges, tmp_path, "vgg", rules)[0]).graph
    stored = {tensor.name for tensor in graph.initializer}
    assert {value.name for value in graph.value_info} == (stored if told else set())


def test_onnxruntime_concatenates_in_integers(float_onnx, ranges, tmp_path, optimized_ops):
    ops = optimized_ops(quantized(float_onnx, ranges, tmp_path, "squeezenet1_1", "cpu_x86")[0])
    assert ops["QLinearConcat"] == 8 and ops["QLinearConv"] == 26 and "FusedConv" not in ops


@pytest.mark.parametrize("activation", ["y = HardSwish(a)", "g = Sigmoid(a)  y = Mul(a, g)", "y = LeakyRelu(a)"])
def test_convolutions_before_operators_without_integer_kernels_run_in_integers(parse, tmp_path, optimized_ops, activation):
    """The Q behind the convolution is what makes it QLinearConv: HardSwish or SiLU itself stays float."""
    rng = np.random.default_rng(0)
    text = f"""net (float[n,3,8,8] x) => (float[n,8,1,1] z) {{
      a = Conv <pads = [1,1,1,1]> (x, w)  {activation}  c = Conv <pads = [1,1,1,1]> (y, v)  z = GlobalAveragePool(c) }}"""
    path = parse(text, w=rng.normal(size=(8, 3, 3, 3)).astype(F32), v=rng.normal(size=(8, 8, 3, 3)).astype(F32))
    images = rng.normal(size=(16, 3, 8, 8)).astype(F32)
    found = calibrate(path, [images], MaxCalibrator(method="max"))
    convert(path, tmp_path / "int8.onnx", "int8", "cpu_x86", found, probe=images)
    ops = optimized_ops(tmp_path / "int8.onnx")
    assert ops["QLinearConv"] == 2 and not {"Conv", "FusedConv"} & set(ops), ops


@pytest.mark.parametrize("rules", ["tensorrt", "tensorrt_sm75"])
def test_tensorrt_files_hold_signed_codes_with_zero_point_zero_only(float_onnx, ranges, tmp_path, rules):
    path, _ = quantized(float_onnx, ranges, tmp_path, "resnet18", rules)
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    assert not any(array.dtype == U8 for array in arrays.values())
    assert not any(array.any() for name, array in arrays.items() if "zero_point" in name)
    half = {array.dtype for name, array in arrays.items() if name.endswith("_scale") or "bias" in name}
    assert half == {np.dtype(np.float16 if rules == "tensorrt_sm75" else F32)}


def test_tensorrt_leaves_the_trunk_of_a_residual_add_to_the_convolution_that_ends_in_it(float_onnx, ranges, tmp_path):
    graph = read_onnx(quantized(float_onnx, ranges, tmp_path, "resnet18", "tensorrt")[0]).graph
    producers = [sorted(value.producer().op_type for value in node.inputs) for node in graph if node.op_type == "Add"]
    assert producers == [["Conv", "DequantizeLinear"]] * 8


def test_one_tensor_gets_one_pair_however_many_read_it(float_onnx, ranges, tmp_path):
    graph = read_onnx(quantized(float_onnx, ranges, tmp_path, "resnet18", "cpu_x86")[0]).graph
    sources = [node.inputs[0].name for node in graph if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))


def test_no_float_copy_of_a_weight_stays_in_the_file(float_onnx, ranges, tmp_path):
    path, info = quantized(float_onnx, ranges, tmp_path, "resnet18", "tensorrt")
    arrays = [onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer]
    assert all(array.dtype == I8 for array in arrays if array.ndim > 1)
    assert info["weight_bytes"] < 0.27 * float_onnx("resnet18").stat().st_size


def test_first_and_last_layer_stay_float_when_asked(float_onnx, ranges, tmp_path, optimized_ops):
    path, info = quantized(float_onnx, ranges, tmp_path, "vgg", "cpu_x86", first_last="float")
    found = [layer["precision"] for layer in info["layers"]]
    assert found == ["fp32", *["int8"] * (len(found) - 2), "fp32"]
    ops = optimized_ops(path)
    assert ops["Conv"] == 1 and ops["Gemm"] == 1 and ops["QLinearConv"] + ops["QGemm"] == len(found) - 2


def test_ranges_of_another_network_are_refused_by_layer(float_onnx, tmp_path):
    with pytest.raises(OnnxError, match="no calibrated range for its input 'images'"):
        convert(float_onnx("vgg"), tmp_path / "x.onnx", "int8", "tensorrt", Ranges({"other": ActivationRange(0, 1, 1)}))
    assert not (tmp_path / "x.onnx").exists()


def test_learned_weight_ranges_must_have_one_entry_per_channel(float_onnx, ranges):
    model = read_onnx(float_onnx("vgg"))
    first = next(iter(model.graph)).inputs[1].name
    wrong = Ranges(ranges("vgg").activations, {first: [1.0, 2.0]})
    with pytest.raises(OnnxError, match="2 learned weight ranges for 16 output channels"):
        quantize_int8(model, RULES["tensorrt"], wrong, "int8")


LINEAR = "net (float[n,4] x) => (float[n,3] y) { r = Relu(x)  y = Gemm <transB = 1> (r, w, b) }"


@pytest.mark.parametrize(("rules", "clips"), [("cpu_x86", False), ("cpu_x86", True), ("tensorrt", True)])
def test_the_file_computes_exactly_what_the_formula_says(parse, tmp_path, run_onnx, rules, clips):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=size).astype(F32) for size in ((8, 4), (3, 4), 3))
    amax = 0.5  # some x are beyond, and beyond twice as much: unsigned codes reach that far, where training did not clip
    path = parse(LINEAR, w=w, b=b)
    model = read_onnx(path)
    quantize_int8(model, RULES[rules], Ranges({"r": ActivationRange(0.0, float(x.max()), amax, clips)}), "int8")
    write_onnx(model, tmp_path / "q.onnx")
    top = 255 if rules == "cpu_x86" else 127
    step = F32(amax / 255) if clips and top == 255 else F32(amax / 127)
    rounded = np.clip(np.rint(np.maximum(x, 0) / step), 0, top) * step
    scale = np.abs(w).max(axis=1, keepdims=True) / F32(127)
    expected = rounded @ (np.clip(np.rint(w / scale), -127, 127) * scale).T + b
    assert run_onnx(tmp_path / "q.onnx", x) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["vgg", "mobilenet_v2"])
def test_openvino_runs_every_convolution_in_integers(float_onnx, ranges, tmp_path, name):
    openvino = pytest.importorskip("toolchain.engines.openvino_session", exc_type=ImportError)
    path, _ = quantized(float_onnx, ranges, tmp_path, name, "openvino")
    model = openvino.compile_model(openvino.read_model(path), "int8", 1, (1, 3, 32, 32))
    kinds = [layer["dtype"] for layer in openvino.realized_layers(model) if "Convolution" in layer["op"]]
    assert kinds and set(kinds) <= {"u8", "i8"}

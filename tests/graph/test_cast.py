"""Half precision: what is cast, what stays FP32, and weights that do not fit."""

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.compare import run
from toolchain.graph.convert import convert

NET = "net (float[n,2] x) => (float[n,2] y) { h = Gemm(x, big_weight, b)  y = Relu(h) }"
KINDS = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


def net(parse, largest=1.0):
    return parse(NET, big_weight=np.float32([[largest, 0], [0, 1]]), b=np.float32([0, 1]))


@pytest.mark.parametrize("precision", KINDS)
def test_computing_in_half_leaves_fp32_only_at_the_graphs_ends(float_onnx, tmp_path, precision):
    convert(float_onnx("resnet18"), tmp_path / "half.onnx", precision, "tensorrt")
    model = onnx.load(tmp_path / "half.onnx")
    ends = [*model.graph.input, *model.graph.output]
    assert [v.type.tensor_type.elem_type for v in ends] == [onnx.TensorProto.FLOAT] * 2
    floats = {i.data_type for i in model.graph.initializer} - {onnx.TensorProto.INT64}
    assert floats == {KINDS[precision]}
    assert [n.op_type for n in model.graph.node].count("Cast") == 2
    assert model.opset_import[0].version == (22 if precision == "bf16" else 21)


@pytest.mark.parametrize("precision", KINDS)
def test_storing_in_half_halves_the_bytes_and_runs_in_fp32(float_onnx, tmp_path, optimized_ops, precision):
    info = convert(float_onnx("vgg"), tmp_path / "half.onnx", precision, "cpu_x86")
    full = convert(float_onnx("vgg"), tmp_path / "full.onnx", "fp32", "cpu_x86")
    assert 0.5 <= info["weight_bytes"] / full["weight_bytes"] < 0.501
    assert "Cast" not in optimized_ops(tmp_path / "half.onnx")  # folded when loaded


@pytest.mark.parametrize("rules", ["tensorrt", "cpu_x86"])
def test_a_weight_beyond_fp16_is_named_with_its_value(parse, tmp_path, rules):
    with pytest.raises(OnnxError, match="weight 'big_weight': largest |w| is 70000, but FP16 ends at 65504; use bf16"):
        convert(net(parse, 70000.0), tmp_path / "half.onnx", "fp16", rules)
    assert not (tmp_path / "half.onnx").exists()


def test_bf16_holds_what_fp16_cannot(parse, tmp_path):
    assert convert(net(parse, 70000.0), tmp_path / "half.onnx", "bf16", "tensorrt")["gap"]["relative"] < 0.01


def test_an_activation_beyond_fp16_is_found_by_running(parse, tmp_path):
    with pytest.raises(OnnxError, match="NaN or infinite where its source.s are not.*use bf16"):
        convert(net(parse, 60000.0), tmp_path / "half.onnx", "fp16", "tensorrt")
    assert not (tmp_path / "half.onnx").exists()


def test_fp16_results_are_rounded_after_every_operation(parse, tmp_path):
    # FP16 has 11 significant bits: above 2048 it counts in twos, so 2048 + 1 is 2048 (half to even) and 2048 + 3 is 2052
    path = parse("net (float[n,1] x) => (float[n,1] y) { a = Add(x, c)  y = Sub(a, c) }", c=np.float32([2048]))
    convert(path, tmp_path / "half.onnx", "fp16", "tensorrt")
    assert run(tmp_path / "half.onnx", np.float32([[1], [2], [3]]), optimize=False).ravel().tolist() == [0, 2, 4]


def test_bfloat16_results_are_rounded_after_every_operation(parse, tmp_path):
    # bfloat16 has 8 significant bits: 1 + 2**-7 is exact, 256 + 1 rounds to 256 (half to even), 256 + 3 to 260
    path = parse("net (float[n,1] x) => (float[n,1] y) { y = Add(x, c) }", c=np.float32([256]))
    convert(path, tmp_path / "half.onnx", "bf16", "tensorrt")
    x = np.float32([[1 + 2**-7], [1], [3]])
    assert run(tmp_path / "half.onnx", x, optimize=False).ravel().tolist() == [258, 256, 260]

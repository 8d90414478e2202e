"""INT8 for 64-bit ARM: signed codes everywhere, and a graph that ONNX Runtime's ARM build can run in integers.

That build takes signed Q/DQ as it is; on x86 the session option session.qdqisint8allowed switches the same fusions on.
"""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from toolchain.graph.convert import convert
from toolchain.graph.qdq import code_grid
from toolchain.graph.rules import RULES
from toolchain.ranges import ActivationRange

I8 = np.int8


@pytest.mark.parametrize(("low", "upper", "scale", "zero_point"), [
    (-3.0, None, 0.1, 0), (0.0, None, 0.1, -128),
    (0.0, 20.4, 0.08, -128),  # Clip at 20.4: 255 steps of 0.08 from code -128 end there, finer than 0.1
    (0.0, 30.0, 0.1, -128)])  # 255 steps of 0.1 end at 25.5, below the Clip already
def test_codes_are_those_of_x86_less_128(low, upper, scale, zero_point):
    found, zero = code_grid(ActivationRange(low, 12.7, 12.7), "s8_shifted", upper)
    assert found == pytest.approx(scale) and (zero, zero.dtype) == (zero_point, I8)


def test_the_rules_differ_from_those_of_x86_in_the_codes_alone():
    assert replace(RULES["cpu_arm"], activations="u8") == RULES["cpu_x86"]


def test_both_cpus_files_give_the_same_logits_and_hold_the_same_bytes_of_weights(
        float_onnx, ranges, probe, run_onnx, tmp_path):
    for rules in ("cpu_x86", "cpu_arm"):
        convert(float_onnx("resnet18"), tmp_path / f"{rules}.onnx", "int8", rules, ranges("resnet18"), probe=probe(32))
    found = [run_onnx(tmp_path / f"{rules}.onnx", probe(32)) for rules in ("cpu_x86", "cpu_arm")]
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-5)  # code by code, without fusions, both are exact
    stored = onnx.load(tmp_path / "cpu_arm.onnx").graph.initializer
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in stored)


@pytest.mark.parametrize("name", ["vgg", "resnet18", "mobilenet_v2"])
def test_with_signed_fusions_every_layer_runs_in_integers(float_onnx, ranges, probe, tmp_path, name):
    info = convert(float_onnx(name), tmp_path / "arm.onnx", "int8", "cpu_arm", ranges(name), probe=probe(32))
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / "arm.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    ops = [node.op_type for node in graph.node]
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "GlobalAveragePool", "Clip", "Relu"} & set(ops), ops
    assert ops.count("QLinearConv") + ops.count("QGemm") == len(info["layers"])
    assert ops.count("QuantizeLinear") == 1
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in graph.initializer)

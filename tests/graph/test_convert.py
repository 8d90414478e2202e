"""Every precision for every target: valid, close to its source, repeatable, and accepted by TensorRT-RTX."""

import importlib.util

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.rules import RULES

PRECISIONS = ["fp32", "fp16", "bf16", "fp8", "int8", "int8_weight_only", "int4"]
# largest |difference| of logits, relative to the largest logit: rounding to 11 and 8 bits; codes of 8 and 4 bits
CLOSE = {"fp32": 1e-6, "fp16": 5e-3, "bf16": 5e-2, "fp8": 0.3, "int8": 0.2, "int8_weight_only": 5e-2, "int4": 0.6}


@pytest.mark.parametrize(("rules", "precision"), [
    (name, precision) for name, rules in RULES.items() for precision in PRECISIONS
    if (precision != "fp8" or rules.fp8_float) and (name != "cpu_arm" or precision == "int8")])  # else that of cpu_x86
@pytest.mark.parametrize("name", ["vgg", "squeezenet1_1"])
def test_every_file_is_valid_and_close_to_its_source(float_onnx, ranges, probe, tmp_path, name, rules, precision):
    out = tmp_path / "out.onnx"
    size = 32 if name == "vgg" else 64
    info = convert(float_onnx(name), out, precision, rules, ranges(name), probe=probe(size))
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert info["gap"]["relative"] < CLOSE[precision], info["gap"]
    assert 0 <= info["gap"]["argmax_agreement"] <= 1
    assert {layer["op"] for layer in info["layers"]} <= {"Conv", "Gemm"}
    assert all(layer["macs"] > 0 for layer in info["layers"])
    again = tmp_path / "again.onnx"
    convert(float_onnx(name), again, precision, rules, ranges(name), probe=probe(size))
    assert out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_source_is_never_written(float_onnx, ranges, tmp_path, precision):
    before = float_onnx("vgg").read_bytes()
    convert(float_onnx("vgg"), tmp_path / "out.onnx", precision, "tensorrt", ranges("vgg"))
    assert float_onnx("vgg").read_bytes() == before


def test_int8_without_ranges_is_refused(float_onnx, tmp_path):
    with pytest.raises(OnnxError, match="int8 needs ranges, found none; calibrate first"):
        convert(float_onnx("vgg"), tmp_path / "out.onnx", "int8", "tensorrt")


def test_unknown_rules_are_refused_with_the_nearest_name(float_onnx, tmp_path):
    with pytest.raises(OnnxError, match="did you mean 'tensorrt'"):
        convert(float_onnx("vgg"), tmp_path / "out.onnx", "fp32", "tensort")


CASES = [(precision, "tensorrt", (89, 120) if precision == "fp8" else (86, 89)) for precision in PRECISIONS] + [("int8", "tensorrt_sm75", (75,)),
                                                                          ("fp16", "tensorrt", (75,))]


@pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(("precision", "rules", "sms"), CASES)
@pytest.mark.parametrize("name", ["vgg", "resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_tensorrt_rtx_builds_the_file_ahead_of_time(float_onnx, ranges, tmp_path, name, precision, rules, sms):
    """Parsing proves the operators, building proves kernels for these GPUs; running needs one (tests/gpu)."""
    import tensorrt_rtx as trt

    out = tmp_path / "out.onnx"
    size = 64 if name == "squeezenet1_1" else 32
    probe = np.zeros((1, 3, size, size), np.float32)
    convert(float_onnx(name), out, precision, rules, ranges(name), probe=probe)
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(out)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(sms)
    for i, sm in enumerate(sms):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), i)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, (1, 3, size, size), (1, 3, size, size), (8, 3, size, size))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None

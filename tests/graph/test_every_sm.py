"""The table of precisions and SMs against TensorRT-RTX itself: every pair builds, or is refused and would not build."""

import io

import numpy as np
import onnx
import pytest

from toolchain.engines import rtx, trt_build
from toolchain.engines.rtx_support import SUPPORT
from toolchain.errors import EngineError
from toolchain.graph.convert import convert
from toolchain.graph.rules import RULES
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.schema import PRECISIONS, RTX_SMS, Int4, RtxEngine

pytestmark = pytest.mark.skipif(rtx.missing() is not None, reason="tensorrt-rtx is not installed")
NET = """net (float[n,3,8,8] x) => (float[n,10] y) {
    c0 = Conv <pads = [1,1,1,1]> (x, conv0, b0)   r0 = Relu(c0)
    c1 = Conv <pads = [1,1,1,1]> (r0, conv1, b1)  s = Add(c1, r0)  r1 = Relu(s)
    g = GlobalAveragePool(r1)  f = Flatten(g)  y = Gemm <transB = 1> (f, head, b2) }"""
SHAPES = {"conv0": (128, 3, 3, 3), "b0": (128,), "conv1": (128, 128, 3, 3), "b1": (128,),
          "head": (10, 128), "b2": (10,)}
RANGES = Ranges({name: ActivationRange(-4.0 if name == "x" else 0.0, 4.0, 4.0) for name in ("x", "r0", "c1", "r1", "f", "g")}, {})
MIXED = {"conv0": "fp16", "conv1": "int8", "head": "int4"}
PROBE = np.zeros((1, 3, 8, 8), np.float32)


@pytest.fixture
def network(parse):
    rng = np.random.default_rng(0)
    return parse(NET, **{name: (0.1 * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()})


def file_for(network, folder, precision, rules, block=32):
    path = folder / f"{precision}.{rules}.{block}.onnx"
    if not path.exists():
        convert(network, path, precision, rules, RANGES, int4=Int4(block=block), probe=PROBE, assignment=MIXED)
    return path


def build(path, folder, sms):
    """In this process: 0.2 s where the process of its own that a recipe gets would take 2."""
    job = trt_build.Job("tensorrt_rtx", str(path), str(folder / "engine.trt"), sms, {"min": 1, "opt": 1, "max": 8}, None,
                        None)
    return trt_build.build(job, io.StringIO())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pair_that_is_allowed_builds_and_one_that_is_refused_would_not(network, tmp_path, precision):
    for sm in RTX_SMS:
        cfg = RtxEngine(runtime="tensorrt_rtx", precision=precision, target=f"sm{sm}")
        path = file_for(network, tmp_path, precision, rtx.rules(cfg))
        if sm in SUPPORT[precision]:
            rtx.refuse(cfg)
            build(path, tmp_path, [sm])
        else:
            with pytest.raises(EngineError, match=f"found {precision} for sm{sm} .sm{sm}: .*; for (Turing|Ampere) use .*int8"):
                rtx.refuse(cfg)
            with pytest.raises(EngineError, match=f"could not build it for sm{sm}"):
                build(path, tmp_path, [sm])


@pytest.mark.parametrize("block", [32, 64, 128])
def test_every_block_of_int4_builds_for_all_its_sms_at_once(network, tmp_path, block):
    path = file_for(network, tmp_path, "int4", "tensorrt", block)
    stored = {i.name: i for i in onnx.load(path).graph.initializer}
    # (O, I * 3 * 3) in blocks along the inputs, and (K, N) of the linear layer
    assert list(stored["conv1_scale"].dims) == [128, 1152 // block]
    assert list(stored["head_scale"].dims) == [128 // block, 10]
    assert stored["head_codes"].data_type == onnx.TensorProto.INT4
    build(path, tmp_path, list(SUPPORT["int4"]))


def test_int8_for_turing_and_newer_at_once_builds_on_the_fp16_graph_alone(network, tmp_path):
    build(file_for(network, tmp_path, "int8", "tensorrt_sm75"), tmp_path, list(RTX_SMS))
    with pytest.raises(EngineError, match="could not build it for sm75"):
        build(file_for(network, tmp_path, "int8", "tensorrt"), tmp_path, list(RTX_SMS))


@pytest.mark.parametrize("rules", [name for name in RULES if not name.startswith("tensorrt")])
def test_a_file_made_for_a_cpu_is_refused_by_tensorrt_rtx(network, tmp_path, rules):
    reason = "symmetric INT8 only: found a zero_point that is not 0" if rules == "cpu_arm" else "no unsigned INT8: found uint8"
    with pytest.raises(EngineError, match=reason):
        build(file_for(network, tmp_path, "int8", rules), tmp_path, [86])


CODES = "q = QuantizeLinear{attribute}(r, s{zero})  p = MaxPool <kernel_shape = [2,2]> (q)  d = DequantizeLinear(p, s{zero})"
UNSIGNED = {
    "zero point 0": ("", ", z", {"z": np.uint8(0)}),
    "zero point 128": ("", ", z", {"z": np.uint8(128)}),
    "no zero point, which means uint8": ("", "", {}),
    "uint8 by attribute": (" <output_dtype = 2> ", "", {}),
}


@pytest.mark.parametrize("form", UNSIGNED)
def test_unsigned_codes_are_refused_however_they_are_written(parse, tmp_path, form):
    attribute, zero, stored = UNSIGNED[form]
    text = (f"net (float[n,3,8,8] x) => (float[n,3,7,7] y) {{ r = Relu(x)  {CODES.format(attribute=attribute, zero=zero)}"
            "  y = Relu(d) }")
    with pytest.raises(EngineError, match="no unsigned INT8: found uint8"):
        build(parse(text, s=np.float32(0.1), **stored), tmp_path, [86])


def test_signed_codes_by_attribute_are_not_taken_for_unsigned(parse, tmp_path):
    text = f"net (float[n,3,8,8] x) => (float[n,3,7,7] y) {{ r = Relu(x)  {CODES.format(attribute=' <output_dtype = 3> ', zero='')}"
    build(parse(text + "  y = Relu(d) }", s=np.float32(0.1)), tmp_path, [86])


def test_unsigned_weights_without_a_zero_point_are_refused(parse, tmp_path):
    text = "net (float[n,4] x) => (float[n,4] y) { w = DequantizeLinear(codes, s)  y = MatMul(x, w) }"
    with pytest.raises(EngineError, match="no unsigned INT8: found uint8"):
        build(parse(text, codes=np.full((4, 4), 200, np.uint8), s=np.float32(0.1)), tmp_path, [86])

"""What users bring by mistake: refused in one sentence that names the place, or simply made to work."""

import warnings

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.compare import run
from toolchain.graph.convert import convert
from toolchain.graph.onnx_file import external_files, read_onnx
from toolchain.graph.own import read_own_onnx
from toolchain.graph.rules import RULES
from toolchain.ranges import ActivationRange, Ranges

F32 = np.float32
NET = "net (float[n,3,4,4] x) => (float[n,2] y) { f = Flatten(x)  y = MatMul(f, w) }"
PRODUCT = "net (float[n,64] x) => (float[n,2] y) { y = MatMul(x, head) }"


def external(tmp_path, parse, location="weights.bin"):
    """A network whose weight lies in `location`, and its proto with that entry."""
    path = tmp_path / "ext.onnx"
    onnx.save(onnx.load(parse(NET, w=np.ones((48, 2), F32))), path, save_as_external_data=True, location="weights.bin",
              size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_file_works_and_ends_up_in_one_file(tmp_path, parse):
    path = external(tmp_path, parse)
    assert external_files(path) == [tmp_path / "weights.bin"]
    assert read_own_onnx(path, tmp_path / "own.onnx")["num_classes"] == 2
    assert external_files(tmp_path / "own.onnx") == []
    assert run(tmp_path / "own.onnx", np.ones((1, 3, 4, 4), F32)).tolist() == [[48, 48]]


@pytest.mark.parametrize("where", ["outside", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(tmp_path, parse, where):
    (tmp_path / "home").mkdir()
    path = external(tmp_path / "home", parse,
                    {"outside": "../secret.bin", "absolute": str(tmp_path / "secret.bin"), "link": "link.bin"}[where])
    (tmp_path / "home" / "weights.bin").rename(tmp_path / "secret.bin")
    if where == "link":
        (tmp_path / "home" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(OnnxError, match=r"ext\.onnx: its external data cannot be read"):
        read_own_onnx(path, tmp_path / "own.onnx")
    assert external_files(path) == [] and not (tmp_path / "own.onnx").exists()


def test_a_network_above_2_gb_is_refused_with_its_size_before_it_is_read(tmp_path, parse):
    path = external(tmp_path, parse)
    with open(tmp_path / "weights.bin", "r+b") as file:
        file.truncate(3_000_000_000)  # a hole: it takes no room on the disk
    with pytest.raises(OnnxError, match=r"ext\.onnx: 3\.0 GB with its external data; expected at most 2 GB"):
        read_onnx(path)


@pytest.mark.parametrize("opset", [1, 6, 9, 13])
def test_an_old_opset_is_upgraded(tmp_path, parse, opset):
    info = read_own_onnx(parse(NET, opset=opset, w=np.ones((48, 2), F32)), tmp_path / "own.onnx")
    assert info["opset"] == opset and onnx.load(tmp_path / "own.onnx").opset_import[0].version == 21


def test_an_opset_that_the_runtime_no_longer_reads_is_refused_with_a_newer_one(tmp_path, parse):
    text = ("net (float[n,3,4,4] x) => (float[n,2] y) { b = BatchNormalization <is_test = 1> (x, s, s, s, s)  "
            "f = Flatten(b)  y = MatMul(f, w) }")
    path = parse(text, opset=6, w=np.ones((48, 2), F32), s=np.ones(3, F32))
    with pytest.raises(OnnxError, match=r"net\.onnx: opset 6: .*BatchNormalization.*; export it with opset 13 or newer"):
        read_own_onnx(path, tmp_path / "own.onnx")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named_with_its_layer(tmp_path, parse, bad):
    w = np.ones((48, 2), F32)
    w[3, 1] = bad
    with pytest.raises(OnnxError, match="layer w: weight 'w' holds NaN or infinity"):
        read_own_onnx(parse(NET, w=w), tmp_path / "own.onnx")
    with pytest.raises(OnnxError, match="layer w: weight 'w' holds NaN or infinity"):
        convert(parse(NET, w=w), tmp_path / "out.onnx", "int4", "cpu_x86")
    assert not (tmp_path / "out.onnx").exists()


def test_an_open_end_of_a_clip_is_no_mistake(tmp_path, parse):
    text = "net (float[n,3,4,4] x) => (float[n,2] y) { c = Clip(x, low, high)  f = Flatten(c)  y = MatMul(f, w) }"
    read_own_onnx(parse(text, w=np.ones((48, 2), F32), low=F32(0), high=F32(np.inf)), tmp_path / "own.onnx")


def test_the_layer_whose_activations_are_not_finite_is_named(tmp_path, parse):
    text = "net (float[n,3,4,4] x) => (float[n,2] y) { f = Flatten(x)  e = MatMul(f, w)  l = Log(e)  y = MatMul(l, v) }"
    path = parse(text, w=np.tile(F32([1, -1]), (48, 1)), v=np.ones((2, 2), F32))  # one of s and -s has no logarithm
    with pytest.raises(OnnxError, match=r"net\.onnx: layer l produces NaN or infinity"):
        read_own_onnx(path, tmp_path / "own.onnx")


def test_a_source_whose_logits_are_not_finite_is_not_judged(tmp_path, parse):
    path = parse("net (float[n,64] x) => (float[n,2] y) { l = Log(x)  y = MatMul(l, head) }", head=np.ones((64, 2), F32))
    with pytest.raises(OnnxError, match="its source's logits are NaN or infinite"):
        convert(path, tmp_path / "out.onnx", "fp32", "cpu_x86", probe=-np.ones((1, 64), F32))
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("precision", ["fp16", "fp8", "int8_weight_only", "int4"])
def test_a_weight_beyond_fp16_is_named_also_where_codes_stand_for_it(tmp_path, parse, precision):
    ranges = Ranges({"x": ActivationRange(-4, 4, 4)}, {})
    path = parse(PRODUCT, head=np.full((64, 2), 70_000, F32))
    with pytest.raises(OnnxError, match=r"weight 'head': largest \|w\| is 70000, but FP16 ends at 65504"):
        convert(path, tmp_path / "out.onnx", precision, "tensorrt", ranges, probe=np.zeros((1, 64), F32))


CASES = [(precision, rules) for rules in ("cpu_x86", "cpu_arm", "tensorrt", "openvino")
         for precision in ("fp8", "int8", "int8_weight_only", "int4") if precision != "fp8" or RULES[rules].fp8_float]


@pytest.mark.parametrize(("precision", "rules"), CASES)
def test_channels_and_activations_that_are_constant_are_exact_and_warn_of_nothing(tmp_path, parse, precision, rules):
    # the first unit's weights are all 0, the second's all 1; x is always 0 in the layer before, so its range is empty
    path = parse("""net (float[n,64] x) => (float[n,2] y) {
        h = Gemm (x, first, ones)  r = Relu(h)  y = MatMul(r, head) }""",
                 first=np.zeros((64, 64), F32), ones=np.ones(64, F32), head=np.tile(F32([0, 1]), (64, 1)))
    ranges = Ranges({"x": ActivationRange(0, 0, 0), "r": ActivationRange(1, 1, 1)}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        info = convert(path, tmp_path / "out.onnx", precision, rules, ranges, probe=np.zeros((2, 64), F32))
    assert info["gap"]["relative"] < 0.01
    found = run(tmp_path / "out.onnx", np.zeros((1, 64), F32), optimize=rules != "tensorrt")
    assert found == pytest.approx(np.array([[0, 64]]), rel=0.01)

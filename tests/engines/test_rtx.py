"""Real TensorRT-RTX builds: its builder needs no GPU. About two seconds each, in a process of its own."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from toolchain.engines import rtx, trt_build
from toolchain.engines.gpu import Gpu
from toolchain.engines.record import read_record
from toolchain.engines.rtx_support import DEFAULT, SUPPORT, sms_of
from toolchain.engines.trt_package import import_package
from toolchain.errors import EngineError, MissingPackage
from toolchain.recipe.schema import PRECISIONS, RTX_SMS, RtxEngine

needs_rtx = pytest.mark.skipif(rtx.missing() is not None, reason="tensorrt-rtx is not installed")


def addresses_can_be_fixed() -> bool:
    code = "from toolchain.engines.repeatable import fix_addresses; raise SystemExit(not fix_addresses())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def cfg(precision="fp32", target=None, **batch):
    return RtxEngine(runtime="tensorrt_rtx", precision=precision, target=target, **({"batch": batch} if batch else {}))


@needs_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_builds_for_every_sm_of_its_default_byte_for_byte_the_same_twice(
        tmp_path, make_onnx, precision, monkeypatch):
    path = make_onnx(precision)
    folders = [tmp_path / "a", tmp_path / "a folder with a much longer name, somewhere else"]
    for folder in folders:
        folder.mkdir()
        monkeypatch.setenv("SOMETHING", "long" * len(folder.name))
        rtx.build(path, cfg(precision), folder, {"weight_bytes": 7})
    record = read_record(folders[0])
    assert sorted(p.name for p in folders[0].iterdir()) == ["engine.json", "engine.trt"]
    assert sms_of(record.target) == list(DEFAULT[precision])
    assert (record.weight_bytes, record.profile) == (7, {"min": 1, "opt": 1, "max": 64})
    if not addresses_can_be_fixed():
        pytest.skip("this system does not let a process switch address randomization off")
    for name in ("engine.trt", "engine.json"):
        assert hashlib.sha256((folders[0] / name).read_bytes()).digest() == hashlib.sha256(
            (folders[1] / name).read_bytes()).digest()


@needs_rtx
def test_the_record_lists_layers_with_the_type_tensorrt_gave_them(tmp_path, make_onnx):
    rtx.build(make_onnx("fp16"), cfg("fp16", "sm86"), tmp_path, {})
    layers = {layer["name"]: layer for layer in read_record(tmp_path).layers}
    assert layers["n_c0"] == {"name": "n_c0", "op": "CONVOLUTION", "dtype": "HALF", "shape": [-1, 16, 16, 16]}


@needs_rtx
@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_a_file_with_2_4_zeros_is_built_as_sparse_and_the_record_counts_them(tmp_path, make_onnx, form, capsys):
    path = make_onnx(form)
    rtx.build(halved(path), cfg(form, "sm86"), tmp_path, {})
    sparse = read_record(tmp_path).sparse
    assert sparse is not None and (sparse["in_file"], sparse["layers"]) == (1, 3)
    assert "2:4 sparse in the file: 1 of 3 layers; TensorRT " in capsys.readouterr().err


@needs_rtx
@pytest.mark.parametrize("sparse", [True, False])
def test_the_builder_may_skip_zeros_only_where_the_weights_have_them(tmp_path, make_onnx, sparse, monkeypatch):
    path, flags = make_onnx("fp16"), []

    def look(job, builder, network, config):
        flags.append(config.get_flag(import_package("tensorrt_rtx").trt.BuilderFlag.SPARSE_WEIGHTS))
        raise EngineError("seen")

    def here(job, title):
        return trt_build.build(job, io.StringIO())

    monkeypatch.setattr(trt_build, "set_profile", look)
    monkeypatch.setattr(rtx, "run_build", here)
    with pytest.raises(EngineError, match="seen"):
        rtx.build(halved(path) if sparse else path, cfg("fp16", "sm86"), tmp_path, {})
    assert flags == [sparse]


def halved(path: Path) -> Path:
    """The same file, in the second convolution of which every other input channel is zero."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w1_q"):
            array = numpy_helper.to_array(tensor).copy()
            array[:, ::2] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return path


@needs_rtx
def test_int8_for_turing_builds_on_the_fp16_graph(tmp_path, make_onnx):
    rtx.build(make_onnx("int8_fp16"), cfg("int8", "sm75+sm86"), tmp_path, {})
    assert read_record(tmp_path).target == "sm75+sm86"


@needs_rtx
@pytest.mark.parametrize("form", ["int8_u8", "int8_u8_zero"])
def test_unsigned_int8_is_refused_although_tensorrt_would_build_it_wrong(tmp_path, make_onnx, form):
    with pytest.raises(EngineError, match="no unsigned INT8: found uint8 .* expected int8 with zero_point 0"):
        rtx.build(make_onnx(form), cfg("int8", "sm86"), tmp_path, {})
    assert not (tmp_path / "engine.trt").exists()


@needs_rtx
@pytest.mark.parametrize(("content", "reason"), [
    (b"", r"found no network in it \(0 bytes\)"), (b"truncated", "Failed to parse the ONNX model")])
def test_a_damaged_onnx_is_refused_in_one_line(tmp_path, make_onnx, content, reason):
    path = make_onnx("fp32")
    path.write_bytes(path.read_bytes()[:1000] if content else b"")
    with pytest.raises(EngineError, match=reason) as error:
        rtx.build(path, cfg("fp32", "sm86"), tmp_path, {})
    assert "\n" not in str(error.value)


@needs_rtx
def test_an_unsupported_operator_is_named(tmp_path, make_onnx):
    with pytest.raises(EngineError, match=r"unsupported operator Det \(node 'n_r0'\)"):
        rtx.build(make_onnx("fp32", op="Det"), cfg("fp32", "sm86"), tmp_path, {})


@needs_rtx
def test_without_a_gpu_the_runtime_says_why_it_cannot_open_an_engine(tmp_path, make_onnx, monkeypatch):
    rtx.build(make_onnx("fp32"), cfg("fp32", "sm86"), tmp_path, {})
    monkeypatch.setattr(rtx, "gpus", lambda: ())
    with pytest.raises(EngineError, match="cannot run here: no GPU"):
        rtx.load(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int4"])
def test_turing_is_refused_by_name_before_the_build(precision):
    with pytest.raises(EngineError, match=f"found {precision} for sm75 .*expected sm80, sm86"):
        rtx.refuse(cfg(precision, "sm75+sm86"))


def test_the_table_speaks_of_every_precision_and_only_of_sms_a_recipe_allows():
    assert set(SUPPORT) == set(DEFAULT) == set(PRECISIONS)
    assert all(set(DEFAULT[p]) <= set(SUPPORT[p]) <= set(RTX_SMS) for p in PRECISIONS)


def test_a_target_left_out_becomes_every_sm_that_runs_the_precision():
    assert rtx.targets(cfg("fp16")).target == "sm75+sm80+sm86+sm89+sm120+sm121"
    assert rtx.targets(cfg("int4")).target == "sm80+sm86+sm89+sm120+sm121"
    assert rtx.targets(cfg("int4", "sm89")).target == "sm89"


def test_int8_for_turing_has_rules_of_its_own():
    assert rtx.rules(cfg("int8", "sm75+sm86")) == "tensorrt_sm75"
    assert rtx.rules(cfg("int8")) == rtx.rules(cfg("fp16", "sm75")) == "tensorrt"


def test_not_runnable_names_what_is_lacking(monkeypatch):
    monkeypatch.setattr(rtx, "gpus", lambda: ())
    assert rtx.not_runnable(cfg()) == "no GPU"
    monkeypatch.setattr(rtx, "gpus", lambda: (Gpu("H200", 90, "570"),))
    assert rtx.not_runnable(cfg("fp16", "sm86")) == "no GPU of sm86 (this is H200, sm90)"
    monkeypatch.setattr(rtx, "gpus", lambda: (Gpu("L4", 89, "570"),))
    assert rtx.not_runnable(cfg("fp16")) is None


def test_a_missing_runtime_is_an_error_with_the_install_line(monkeypatch):
    monkeypatch.setattr(rtx, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install tensorrt-rtx"):
        rtx.refuse(cfg())


@pytest.mark.parametrize(("files", "built", "kept"), [("aa", 2, "a"), ("aba", 3, "a"), ("abb", 3, "b"), ("abcde", 5, "e")])
def test_it_is_built_until_two_builds_gave_the_same_bytes(tmp_path, monkeypatch, capsys, files, built, kept):
    """Each letter stands for the bytes that one build gives."""
    job, left = trt_build.Job("tensorrt_rtx", "m.onnx", str(tmp_path / "e"), [86], {}, None, None), list(files + "xyz")

    def play(job, title):
        Path(job.engine).write_text(left.pop(0))
        return {"layers": len(left), "repeatable": True}

    monkeypatch.setattr(rtx, "run_build", play)
    assert rtx.agreed(job, "title")["layers"] == len(files) + 3 - built
    assert (tmp_path / "e").read_text() == kept
    assert ("another build will have another digest" in capsys.readouterr().err) == (len(set(files)) == 5)


def test_where_addresses_cannot_be_fixed_it_is_built_once(tmp_path, monkeypatch, capsys):
    """Two builds would agree by chance alone, and a third would not."""
    job, titles = trt_build.Job("tensorrt_rtx", "m.onnx", str(tmp_path / "e"), [86], {}, None, None), []

    def play(job, title):
        Path(job.engine).write_text("some bytes")
        titles.append(title)
        return {"repeatable": False}

    monkeypatch.setattr(rtx, "run_build", play)
    rtx.agreed(job, "title")
    assert titles == ["title"] and capsys.readouterr().err == ""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from toolchain.engines import load_engine
from toolchain.engines import openvino as backend
from toolchain.engines.record import read_record
from toolchain.errors import EngineError, MissingPackage
from toolchain.recipe.schema import OpenVinoEngine

pytest.importorskip("openvino", reason="the openvino extra is not installed")


def cfg(precision="fp32"):
    return OpenVinoEngine(runtime="openvino", precision=precision)


@pytest.mark.parametrize(("precision", "form", "tolerance"), [("fp32", "fp32", 1e-4), ("int8", "int8", 0.05)])
def test_an_engine_computes_what_onnx_says_of_its_file(tmp_path, make_onnx, images, precision, form, tolerance):
    path = make_onnx(form)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images})[0]
    backend.build(path, cfg(precision), tmp_path, {})
    with load_engine(tmp_path, threads=1) as engine:
        np.testing.assert_allclose(engine.infer(images), expected, atol=tolerance * np.abs(expected).max())
        assert engine.input_shape == (-1, 3, 16, 16)
        assert (engine.time_ms(images, 3) > 0).all()


def test_it_is_compiled_for_the_very_shape_of_the_images(tmp_path, make_onnx, images, monkeypatch):
    """Left open, a batch of 1 takes up to a third longer; answers are the same whatever the batch."""
    from toolchain.engines import openvino_session

    compiled, real = [], openvino_session.compile_model
    monkeypatch.setattr(openvino_session, "compile_model", lambda *words: compiled.append(words[3]) or real(*words))
    backend.build(make_onnx("int8"), cfg("int8"), tmp_path, {})
    with load_engine(tmp_path, threads=1) as engine:
        whole = engine.infer(images)
        np.testing.assert_array_equal(np.concatenate([engine.infer(images[i:i + 1]) for i in range(7)]), whole)
        engine.time_ms(images[:1], 3)
    assert [tuple(shape) for shape in compiled] == [(1, 3, 16, 16), (7, 3, 16, 16), (1, 3, 16, 16)]


def test_fp32_means_fp32_and_not_the_cpus_default_of_bf16(tmp_path, make_onnx):
    backend.build(make_onnx("fp32"), cfg(), tmp_path, {})
    assert {layer["dtype"] for layer in read_record(tmp_path).layers} == {"f32"}


def test_int8_convolutions_run_in_int8(tmp_path, make_onnx):
    backend.build(make_onnx("int8"), cfg("int8"), tmp_path, {})
    kinds = {layer["op"]: layer["dtype"] for layer in read_record(tmp_path).layers}
    assert kinds["Convolution"] in ("i8", "u8")


def test_bf16_runs_in_bf16_where_the_cpu_has_it(tmp_path, make_onnx):
    if "BF16" not in backend.cpu_capabilities():
        pytest.skip("this CPU has no bf16")
    backend.build(make_onnx("fp32"), cfg("bf16"), tmp_path, {})
    record = read_record(tmp_path)
    assert record.compute == "bf16" and "bf16" in {layer["dtype"] for layer in record.layers}


def test_bf16_is_refused_where_the_cpu_would_emulate_it(monkeypatch):
    monkeypatch.setattr(backend, "cpu_capabilities", lambda: ["FP32", "INT8"])
    with pytest.raises(EngineError, match="found precision bf16, but this CPU offers only FP32, INT8"):
        backend.refuse(cfg("bf16"))
    assert [engine["precision"] for engine in backend.default_engines()] == ["fp32", "int8"]


@pytest.mark.parametrize(("content", "reason"), [(b"", "the file is empty"), (b"\x08\x0a", "refuses it")])
def test_a_damaged_onnx_is_an_error_of_one_line(tmp_path, make_onnx, content, reason):
    path = make_onnx("fp32")
    path.write_bytes(content)
    with pytest.raises(EngineError, match=reason) as error:
        backend.build(path, cfg(), tmp_path, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("precision", "form"), [("int8_weight_only", "int8_weights"), ("int4", "int4_weights")])
def test_weights_alone_are_integers_so_activations_stay_as_they_are(tmp_path, make_onnx, images, precision, form):
    """OpenVINO's default rounds the inputs of such linear layers to INT8, in groups of 32: 4e-3 of the largest logit."""
    path = make_onnx(form)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images})[0]
    backend.build(path, cfg(precision), tmp_path, {})
    with load_engine(tmp_path, threads=1) as engine:
        np.testing.assert_allclose(engine.infer(images), expected, atol=1e-5 * np.abs(expected).max())
    assert read_record(tmp_path).compute == "fp32"


def test_fp8_is_refused_since_a_cpu_would_emulate_it():
    with pytest.raises(EngineError, match="openvino: found precision fp8, expected fp32, .*OpenVINO emulates it"):
        backend.refuse(cfg("fp8"))


def test_a_missing_runtime_is_an_error_with_the_install_line(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install -e"):
        backend.refuse(cfg())

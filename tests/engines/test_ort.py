import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from toolchain.engines import load_engine, ort
from toolchain.engines.record import read_record
from toolchain.errors import DigestMismatch, EngineError, MissingPackage
from toolchain.graph.compare import run
from toolchain.recipe.schema import OrtEngine


def cfg(precision="fp32", target="cpu_x86"):
    return OrtEngine(runtime="onnxruntime", precision=precision, target=target)


@pytest.mark.parametrize(("precision", "form"), [
    ("fp32", "fp32"), ("fp16", "fp16_storage"), ("bf16", "bf16_storage"), ("int8", "int8_u8")])
def test_an_engine_computes_what_onnx_says_of_its_file(tmp_path, make_onnx, images, precision, form):
    path = make_onnx(form)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images})[0]
    ort.build(path, cfg(precision), tmp_path, {"weight_bytes": 1})
    with load_engine(tmp_path, threads=1) as engine:
        logits = engine.infer(images)
    assert logits.dtype == np.float32 and logits.shape == (7, 10)
    tolerance = 0.02 if precision == "int8" else 1e-4  # int8: a sum on a rounding edge may fall to either side
    np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max())


def test_the_record_names_what_is_stored_and_what_is_computed(tmp_path, make_onnx):
    ort.build(make_onnx("fp16_storage"), cfg("fp16"), tmp_path, {"weight_bytes": 12})
    record = read_record(tmp_path)
    assert (record.precision, record.compute, record.weight_bytes, record.engine) == ("fp16", "fp32", 12, "engine.onnx")
    assert {layer["dtype"] for layer in record.layers} == {"float"}


def test_int8_layers_that_really_run_in_int8_are_in_the_record(tmp_path, make_onnx):
    ort.build(make_onnx("int8_u8"), cfg("int8"), tmp_path, {})
    layers = read_record(tmp_path).layers
    assert "QLinearConv" in [layer["op"] for layer in layers]
    assert "uint8" in [layer["dtype"] for layer in layers]


def test_int4_linear_layers_multiply_the_float_inputs_themselves(tmp_path):
    """ONNX Runtime's own default rounds the inputs of MatMulNBits to INT8, an error of 1e-2."""
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-7, 8, (256, 64)), rng.uniform(0.01, 0.02, (8, 64)).astype(np.float32)
    images = rng.normal(size=(5, 4, 8, 8)).astype(np.float32)
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("images", ["n", 4, 8, 8]), ("logits", ["n", 64]))]
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]),
             helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"], axis=0, block_size=32),
             helper.make_node("MatMul", ["flat", "weight"], ["logits"])]
    stored = [helper.make_tensor("codes", TensorProto.INT4, codes.shape, codes.flatten()), numpy_helper.from_array(scale, "scale")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", told[:1], told[1:], stored), ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "model.onnx")
    (tmp_path / "engine").mkdir()
    ort.build(tmp_path / "model.onnx", cfg("int4"), tmp_path / "engine", {})
    with load_engine(tmp_path / "engine", threads=1) as engine:
        logits = engine.infer(images)
    exact = images.reshape(5, 256).astype(np.float64) @ (codes * np.repeat(scale, 32, axis=0))
    assert "MatMulNBits" in [layer["op"] for layer in read_record(tmp_path / "engine").layers]
    assert np.linalg.norm(logits - exact) < 1e-5 * np.linalg.norm(exact)
    by_node = run(tmp_path / "model.onnx", images, optimize=False)
    assert np.linalg.norm(logits - by_node) < 1e-5 * np.linalg.norm(by_node)


def test_two_builds_leave_the_same_bytes(tmp_path, make_onnx):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ort.build(make_onnx("fp32"), cfg(), tmp_path / name, {"weight_bytes": 1})
    for file in ("engine.onnx", "engine.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["engine.json", "engine.onnx"]


def test_the_source_file_is_left_as_it_was(tmp_path, make_onnx):
    path = make_onnx("fp32")
    before = path.read_bytes()
    engine = ort.build(path, cfg(), tmp_path, {})
    assert path.read_bytes() == before == engine.read_bytes()


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "No graph was found"), (b"hello" * 50, "Protobuf parsing failed"), ("truncated", "Protobuf parsing failed")])
def test_a_damaged_onnx_is_refused_with_the_runtimes_reason(tmp_path, make_onnx, capfd, content, reason):
    path = make_onnx("fp32")
    path.write_bytes(path.read_bytes()[:1000] if content == "truncated" else content)
    with pytest.raises(EngineError, match=reason) as error:
        ort.build(path, cfg(), tmp_path, {})
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_an_operator_that_onnxruntime_lacks_is_named(tmp_path, make_onnx, capfd):
    path = make_onnx("bf16")  # computes in bf16, for which the CPU provider has no convolution
    with pytest.raises(EngineError, match=r"Could not find an implementation for Conv"):
        ort.build(path, cfg("bf16"), tmp_path, {})
    assert capfd.readouterr().err == ""


def test_a_tampered_engine_is_not_loaded(tmp_path, make_onnx):
    engine = ort.build(make_onnx("fp32"), cfg(), tmp_path, {})
    engine.write_bytes(engine.read_bytes()[:-1] + b"\0")
    with pytest.raises(DigestMismatch, match="altered"):
        load_engine(tmp_path)


def test_a_fixed_batch_is_filled_and_cut(tmp_path, make_onnx, images):
    (tmp_path / "fixed").mkdir()
    ort.build(make_onnx("fp32"), cfg(), tmp_path, {})
    ort.build(make_onnx("fp32", batch=4), cfg(), tmp_path / "fixed", {})
    with load_engine(tmp_path, 1) as dynamic, load_engine(tmp_path / "fixed", 1) as fixed:
        assert dynamic.batches == (1, None) and fixed.batches == (4, 4)
        np.testing.assert_allclose(fixed.infer(images), dynamic.infer(images), atol=1e-5)
        with pytest.raises(EngineError, match="found batch 7, expected 4 to 4"):
            fixed.time_ms(images, 1)


def test_times_are_positive_and_as_many_as_asked(tmp_path, make_onnx, images):
    ort.build(make_onnx("fp32"), cfg(), tmp_path, {})
    with load_engine(tmp_path, 1) as engine:
        samples = engine.time_ms(images, 5)
        assert samples.shape == (5,) and (samples > 0).all()
        assert engine.transfer_ms(images, 1) is None and engine.device_bytes() is None


def test_quantized_engines_are_refused_for_the_cuda_provider():
    for precision in ("bf16", "int8", "int4"):
        with pytest.raises(EngineError, match=f"target cuda: found precision {precision}, expected fp32 or fp16"):
            ort.refuse(cfg(precision, "cuda"))
    ort.refuse(cfg("fp16", "cuda"))


@pytest.mark.parametrize("target", ["cpu_x86", "cpu_arm"])
def test_fp8_is_refused_by_name_on_a_cpu(target):
    with pytest.raises(EngineError, match=f"target {target}: found precision fp8, expected fp32 .*use runtime tensorrt_rtx"):
        ort.refuse(cfg("fp8", target))


@pytest.mark.parametrize(("machine", "here", "other"), [("x86_64", "cpu_x86", "cpu_arm"), ("aarch64", "cpu_arm", "cpu_x86")])
def test_a_file_for_another_cpu_is_built_and_opened_but_not_run(tmp_path, make_onnx, monkeypatch, machine, here, other):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert ort.targets(cfg(target=None)).target == here == ort.default_engines()[0]["target"]
    assert ort.not_runnable(cfg(target=here)) is None and ort.rules(cfg(target=None)) == here
    ort.build(make_onnx("fp32"), cfg(target=other), tmp_path, {})
    record = read_record(tmp_path)
    assert (record.target, record.device, record.layers) == (other, other, [])
    with pytest.raises(EngineError, match=f"cannot run here: this CPU is {machine}, {other} wants another"):
        load_engine(tmp_path)
    path = make_onnx("bf16")  # no CPU has its convolutions
    with pytest.raises(EngineError, match="Could not find an implementation for Conv"):
        ort.build(path, cfg("bf16", other), tmp_path, {})


def test_a_cuda_engine_without_a_gpu_is_not_runnable(monkeypatch):
    monkeypatch.setattr(ort, "gpus", lambda: ())
    assert ort.not_runnable(cfg("fp16", "cuda")) == "no GPU"
    assert ort.not_runnable(cfg()) is None


def test_a_missing_runtime_is_an_error_with_the_install_line(monkeypatch):
    monkeypatch.setattr(ort, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install onnxruntime"):
        ort.refuse(cfg())

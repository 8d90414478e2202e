"""TensorRT engines on a real GPU: their answers against ONNX's own arithmetic, their clock against its limits."""

import subprocess

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from pydantic import TypeAdapter

from toolchain.engines import backend, load_engine
from toolchain.engines.gpu import gpus
from toolchain.errors import EngineError
from toolchain.measure import measure_engines
from toolchain.recipe.schema import Engine, Measure

RUNTIMES = ("tensorrt_rtx", "tensorrt")
# largest logit error relative to the largest logit: rounding of the type, through three layers
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 5e-2, "int4": 5e-3}


def build(runtime, precision, path, folder, **batch):
    module = backend(runtime)
    cfg = TypeAdapter(Engine).validate_python(
        {"runtime": runtime, "precision": precision, **({"batch": batch} if batch else {})})
    if module.missing():
        pytest.skip(module.missing())
    try:
        module.refuse(cfg)
    except EngineError as refusal:
        pytest.skip(str(refusal))
    cfg = module.targets(cfg)
    if module.not_runnable(cfg):
        pytest.skip(module.not_runnable(cfg))
    folder.mkdir(exist_ok=True)
    module.build(path, cfg, folder, {"weight_bytes": 1})
    return cfg


def test_the_gpu_is_the_one_nvidia_smi_names():
    try:
        names = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True,
                               check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nvidia-smi is not installed")
    assert gpus()[0].name in [name.strip() for name in names]
    assert gpus()[0].sm >= 50


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_an_engine_answers_as_onnx_says(runtime, precision, tmp_path, make_onnx, images):
    path = make_onnx(precision)
    build(runtime, precision, path, tmp_path / "engine", min=1, opt=1, max=4)  # 7 images: a batch of 4, and one of 3
    reference = make_onnx("fp32") if precision in ("bf16", "fp16") else path
    expected = ReferenceEvaluator(onnx.load(reference)).run(None, {"images": images})[0]
    with load_engine(tmp_path / "engine") as engine:
        assert engine.batches == (1, 4) and engine.input_shape == (-1, 3, 16, 16)
        logits = engine.infer(images)
    assert np.abs(logits - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_times_come_from_events_and_transfers_stand_apart(runtime, tmp_path, make_onnx, images):
    build(runtime, "fp32", make_onnx("fp32"), tmp_path / "engine")
    with load_engine(tmp_path / "engine") as engine:
        samples, transfers = engine.time_ms(images, 50), engine.transfer_ms(images, 50)
        assert samples.shape == (50,) and (samples > 0).all() and np.median(samples) < 100
        assert transfers.shape == (50, 2) and (transfers >= 0).all()
        assert engine.device_bytes() > 0
        with pytest.raises(EngineError, match="expected 1 to 64"):
            engine.time_ms(np.zeros((65, 3, 16, 16), np.float32), 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_second_engine_opens_after_the_first_is_closed(runtime, tmp_path, make_onnx, images):
    build(runtime, "fp16", make_onnx("fp16"), tmp_path / "engine")
    for _ in range(3):
        with load_engine(tmp_path / "engine") as engine:
            first = engine.infer(images)
            assert (engine.infer(images) == first).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_gpu_engines_are_measured_and_compared_with_their_own_fp32(runtime, tmp_path, make_onnx):
    folders = {}
    for precision in ("fp32", "int8"):
        cfg = build(runtime, precision, make_onnx(precision), tmp_path / precision)
        folders[f"{precision}.{runtime}.{cfg.target}"] = tmp_path / precision
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((64, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 64)
    cfg = Measure(warmup=2, rounds=4, runs_per_round=5)
    fp32, int8 = measure_engines(folders, dict.fromkeys(folders), lambda: iter([(images, labels)]), labels, cfg, tmp_path,
                                 seed=0, classes=10)
    assert fp32["speedup_vs_fp32"]["value"] == 1.0 and int8["latency_reference"] == fp32["name"]
    assert int8["agreement_percent"] > 80 and int8["transfer_ms"]["to_device"] > 0
    assert int8["peak_memory_bytes"] > 0


def test_onnxruntimes_cuda_provider_answers_as_onnx_says(tmp_path, make_onnx, images):
    from toolchain.engines import ort
    from toolchain.recipe.schema import OrtEngine

    for precision in ("fp32", "fp16"):
        cfg = OrtEngine(runtime="onnxruntime", precision=precision, target="cuda")
        if ort.not_runnable(cfg):
            pytest.skip(ort.not_runnable(cfg))
        ort.build(make_onnx(precision), cfg, tmp_path, {})
        expected = ReferenceEvaluator(onnx.load(make_onnx("fp32"))).run(None, {"images": images})[0]
        with load_engine(tmp_path) as engine:
            found = engine.infer(images)
            assert (engine.time_ms(images, 5) > 0).all()
        assert np.abs(found - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()

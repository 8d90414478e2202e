"""The device-side runner on a real GPU: what it sees of it, and TensorRT's answers against ONNX's own arithmetic."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from toolchain.engines.gpu import gpus
from toolchain.runner import cuda
from toolchain.runner.making import make_engine
from toolchain.runner.opened import open_engine
from toolchain.runner.place import Place


def test_the_runner_sees_the_same_gpu():
    assert (cuda.gpu()["name"], cuda.gpu()["sm"]) == (gpus()[0].name, gpus()[0].sm)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("int8", 5e-2)])
def test_an_engine_that_the_runner_built_answers_as_onnx_says(precision, tolerance, tmp_path, make_onnx, images):
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    path = make_onnx(precision)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images})[0]
    engine = {"name": "e", "precision": precision, "runtime": "tensorrt", "target": "local_gpu", "batch": {"min": 1, "opt": 1, "max": 4}}
    record = make_engine(Place(tmp_path), engine, path, tmp_path / "engine")
    with open_engine(engine, tmp_path / "engine" / record["engine"]) as opened:
        logits = opened.infer(images)
        assert (opened.time_ms(images[:2], 5) > 0).all()
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()
    assert list(tmp_path.glob("timing.*.cache"))

"""Engines for timing alone: built as a build makes them, timed side by side, and refused where that cannot be."""

import json
from types import SimpleNamespace

import onnx
import pytest

from toolchain.engines import trt
from toolchain.errors import EngineError, RecipeError
from toolchain.graph.layer_file import LayerShape, write_layers
from toolchain.recipe.prune import Channels, Latency, SelfDistill
from toolchain.recipe.schema import Measure, OrtEngine, TrtEngine
from toolchain.steps.timing import Clock, made_up_ranges, refuse_latency, timed_ms

CONV = LayerShape("conv", 16, 16, (3, 3), padding=(1, 1), height=4, width=4)
RECIPE = SimpleNamespace(measure=Measure(), distill=None)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engines_of_different_inputs_are_timed_side_by_side(tmp_path, precision):
    write_layers(tmp_path / "conv.onnx", [CONV, CONV])
    write_layers(tmp_path / "linear.onnx", [LayerShape("linear", 12, 4)])
    how = Clock(OrtEngine(runtime="onnxruntime", precision=precision), batch=2, threads=1, warmup=1, rounds=3, runs=2)
    files = {"conv": tmp_path / "conv.onnx", "linear": tmp_path / "linear.onnx"}
    samples = timed_ms(files, how, tmp_path)
    assert {name: found.shape for name, found in samples.items()} == {"conv": (3, 2), "linear": (3, 2)}
    assert all((found > 0).all() for found in samples.values())
    ran = [layer["op"] for layer in json.loads((tmp_path / "conv" / "engine.json").read_text())["layers"]]
    assert ("QLinearConv" in ran) == (precision == "int8")  # ranges are made up, arithmetic is not


def test_a_rectified_tensor_has_no_negative_range_behind_a_pool_either(tmp_path):
    network = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        network (float[N, 3, 4, 4] images) => (float[N, 2, 2, 2] logits)
        <float[2, 3, 1, 1] w = {1, 1, 1, 1, 1, 1}, float[2, 2, 1, 1] v = {1, 1, 1, 1}> {
            c = Conv (images, w)
            r = Relu (c)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
            d = Conv (p, v)
            s = Sigmoid (d)
            logits = Conv (s, v)
        }""")
    onnx.save(network, tmp_path / "a.onnx")
    lows = {name: found.min < 0 for name, found in made_up_ranges(tmp_path / "a.onnx").activations.items()}
    assert lows == {"images": True, "r": False, "p": False, "d": True, "s": True}


def test_an_engine_that_cannot_be_timed_here_is_refused(monkeypatch):
    monkeypatch.setattr(trt, "missing", lambda: None)
    monkeypatch.setattr(trt, "refuse", lambda cfg: None)
    monkeypatch.setattr(trt, "not_runnable", lambda cfg: "no GPU")
    engine = TrtEngine(runtime="tensorrt", precision="fp16")
    with pytest.raises(EngineError, match="prune.engine: tensorrt fp16 on local_gpu cannot be timed here: no GPU"):
        refuse_latency(Latency(method="latency", engine=engine), RECIPE)
    monkeypatch.setattr(trt, "not_runnable", lambda cfg: None)
    refuse_latency(Latency(method="latency", engine=engine), RECIPE)
    with pytest.raises(EngineError, match=r"measure.batch is 99, outside its profile \(1 to 64\)"):
        refuse_latency(Latency(method="latency", engine=engine), SimpleNamespace(measure=Measure(batch=99), distill=None))


def test_a_section_without_such_an_engine_is_let_through():
    refuse_latency(None, RECIPE)
    refuse_latency(Channels(method="channels"), RECIPE)
    refuse_latency(Latency(method="latency"), RECIPE)


def test_two_teachers_after_pruning_are_one_too_many():
    taught = SimpleNamespace(measure=Measure(), distill=object())
    refuse_latency(Latency(method="latency"), taught)  # the default gives way to the distill section
    with pytest.raises(RecipeError, match="prune.self_distill: found a teacher of its own"):
        refuse_latency(Latency(method="latency", self_distill=SelfDistill(temperature=2)), taught)

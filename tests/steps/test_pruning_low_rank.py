"""Which layers are factorized: those whose chain the engine runs faster. The engine is played here, with known times."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from toolchain.cli import main
from toolchain.errors import TrainError
from toolchain.graph.layer_file import LayerShape
from toolchain.prune.factors import chain
from toolchain.recipe.prune import LowRank
from toolchain.recipe.schema import Export, OrtEngine
from toolchain.steps import pruning_low_rank, timing
from toolchain.steps.pruning_low_rank import DECIDED, layer_shapes
from toolchain.steps.timing import Clock

RECIPE = Path(__file__).parents[2] / "recipes/prune/digits/low_rank_tucker2.yaml"
HOW = Clock(OrtEngine(runtime="onnxruntime", precision="fp32", target="cpu_x86"))
JOB = SimpleNamespace(recipe=SimpleNamespace(data=SimpleNamespace(image_size=8), export=Export()),
                      dataset=lambda: SimpleNamespace(classes=("a", "b", "c")))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(16 * 9, 24), nn.ReLU(), nn.Linear(24, 3))


@pytest.fixture
def speeds(monkeypatch) -> Iterator[dict[str, float]]:
    """Speed-up of the chain over the layer, by the layer's first weight shape; `whole` of the network. 1.0 elsewhere."""
    played: dict[str, float] = {}

    def timed_ms(files, how):
        shapes = [list(tensor.dims) for tensor in onnx.load(next(iter(files.values()))).graph.initializer]
        name = next((name for name in played if name in map(str, shapes)), "") if "whole" in files else "network"
        slow = np.linspace(1.99, 2.01, 50).reshape(5, 10)
        return {key: slow / (played.get(name, 1.0) if at else 1) for at, key in enumerate(files)}

    monkeypatch.setattr(timing, "timed_ms", timed_ms)
    monkeypatch.setattr(timing, "clock", lambda recipe, engine: HOW)
    yield played


def decide(**fields):
    cfg = LowRank(method="low_rank", **{"round_to": 1, **fields})
    return pruning_low_rank._decide(JOB, cfg, net())


def test_only_layers_whose_chain_is_faster_are_taken_and_every_ratio_is_kept(speeds) -> None:
    speeds |= {"[16, 16, 3, 3]": 1.5, "[24, 144]": 0.8, "network": 1.2}
    decided = decide(rank=0.25)
    assert {name: found["ranks"] for name, found in decided["layers"].items()} == {"2": [4]}
    assert decided["layers"]["2"]["ratio"] == pytest.approx({"value": 1.5, "low": 1.5, "high": 1.5})
    ratios = {name: found["ratio"]["value"] for name, found in decided["rejected"].items()}
    assert ratios == pytest.approx({"0": 1.0, "5": 0.8, "7": 1.0})  # as fast is not faster
    assert decided["latency"]["speedup"]["value"] == pytest.approx(1.2)
    assert decided["latency"]["before_p50_ms"] == pytest.approx(2.0)
    assert decided["latency"]["engine"] == "fp32.onnxruntime.cpu_x86"


def test_where_no_layer_is_faster_each_is_named_with_its_ratio_the_best_first(speeds) -> None:
    speeds |= {"[16, 3, 3, 3]": 0.7, "[16, 16, 3, 3]": 0.9, "[24, 144]": 0.8, "[3, 24]": 0.6}
    with pytest.raises(TrainError, match="no layer is faster as a chain on onnxruntime fp32 at batch 1: 2 0.90x at rank 4, "
                                         "5 0.80x at rank 6, 0 0.70x at rank 4, 7 0.60x at rank 1; use a smaller "
                                         "prune.rank, or prune.method: channels"):
        decide(rank=0.25)


def test_under_a_budget_other_layers_make_up_for_those_that_are_not_faster(speeds) -> None:
    parameters = sum(parameter.numel() for parameter in net().parameters())
    assert parameters == 448 + 2320 + 3480 + 75
    speeds |= {"[16, 16, 3, 3]": 1.5, "[24, 144]": 0.8}
    # rank r of layer 2 saves 2304 - 160 r, and 1897 are asked for
    assert {name: found["ranks"] for name, found in decide(params=0.3)["layers"].items()} == {"2": [2]}
    with pytest.raises(TrainError, match=r"found 0.4, but low_rank .* can remove 0.346 of the 6323 parameters at most, "
                                         r"in 2 layers; .*; not faster, so left as they are: .*5 0.80x at rank"):
        decide(params=0.4)  # (2304 - 160 + 72 - 27) / 6323


def test_without_an_engine_nothing_is_timed(monkeypatch) -> None:
    monkeypatch.setattr(timing, "timed_ms", None)
    decided = decide(rank=0.25, engine=None)
    assert list(decided["layers"]) == ["0", "2", "5", "7"] and decided["latency"] is None


def test_what_was_decided_is_not_measured_again_after_an_interruption(tmp_path, monkeypatch) -> None:
    cfg = LowRank(method="low_rank", rank=0.25, engine=None)
    decided = pruning_low_rank._decided(JOB, cfg, net(), tmp_path)
    assert json.loads((tmp_path / DECIDED).read_text()) == decided
    monkeypatch.setattr(pruning_low_rank, "_decide", None)
    assert pruning_low_rank._decided(JOB, cfg, net(), tmp_path) == decided


def test_the_engine_sees_the_layers_and_the_chain_as_they_run() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 1))
    whole = LayerShape("conv", 4, 6, (3, 5), (2, 1), (1, 2), (1, 1), 1, 9, 7, True)
    assert layer_shapes([layer], (4, 9, 7)) == [whole]
    assert layer_shapes(chain(layer, "spatial", [2]), (4, 9, 7)) == [
        LayerShape("conv", 4, 2, (3, 1), (2, 1), (1, 0), (1, 1), 1, 9, 7, False),
        LayerShape("conv", 2, 6, (1, 5), (1, 1), (0, 2), (1, 1), 1, 5, 7, True)]  # (9 + 2 - 3) // 2 + 1 rows are left
    same = nn.Conv2d(4, 6, 3, padding="same", dilation=2)
    assert layer_shapes(chain(same, "tucker2", [2, 3]), (4, 9, 7)) == [
        LayerShape("conv", 4, 2, height=9, width=7, relu=False),
        LayerShape("conv", 2, 3, (3, 3), padding=(2, 2), dilation=(2, 2), height=9, width=7, relu=False),
        LayerShape("conv", 3, 6, height=9, width=7)]
    assert layer_shapes([nn.Linear(8, 5)], (8,)) == [LayerShape("linear", 8, 5)]
    assert layer_shapes([nn.Linear(8, 5)], (49, 8)) == [LayerShape("conv", 8, 5, height=49)]


def test_a_factorized_network_becomes_an_int8_engine(tmp_path):
    command = ["build", str(RECIPE), "--out", str(tmp_path), "--set", "train.epochs=1", "--set", "model.width=0.125",
               "--set", "prune.finetune.epochs=1", "--set", "measure.rounds=2", "--set", "measure.runs_per_round=2",
               "--set", "quantize.calibration.images=16", "--set", "prune.round_to=4", "--set", "measure.gradcam_images=0"]
    with pytest.raises(SystemExit) as done:
        main(command)
    assert not done.value.code
    stage = next((tmp_path / "stages").glob("prune-*"))
    history = json.loads((stage / "architecture.json").read_text())["pruned"]
    decided = json.loads((stage / DECIDED).read_text())
    assert history["layers"] == decided["layers"] and history["rejected"] == {} and history["latency"] is None
    name, found = next(iter(history["layers"].items()))
    record = history["rounds"][0]
    assert (record["round"], record["epochs"]) == (1, 1)
    stored = onnx.load(tmp_path / "onnx/model.fp32.cpu_x86.onnx").graph.initializer
    weights = {tensor.name: list(tensor.dims) for tensor in stored}
    assert weights[f"{name}.1.weight"] == [found["ranks"][1], found["ranks"][0], 3, 3]
    assert sum(np.prod(dims) for weight, dims in weights.items() if weight.endswith("weight")) <= record["parameters"]
    codes = onnx.load(tmp_path / "onnx/model.int8.cpu_x86.onnx").graph.initializer
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4 for tensor in codes) == sum(
        len(weight) == 4 for weight in weights.values())

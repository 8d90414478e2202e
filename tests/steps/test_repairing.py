"""The repair stage on a network that per-tensor activations ruin: what is tried, what is kept, what is recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from repair_nets import stored, write
from train_data import SIZE, squares

from toolchain.quantize.calibrate import calibrate
from toolchain.quantize.repair import REPAIRS
from toolchain.ranges import Ranges
from toolchain.recipe.repair import IN_ORDER_OF_COST
from toolchain.recipe.schema import Recipe
from toolchain.steps.repairing import allowed_drop, repaired
from toolchain.workdir import WorkDir

# the mean of each colour, but red travels 256 times larger between the layers and blue 256 times smaller
NET = f"""net (float[n,3,{SIZE},{SIZE}] images) => (float[n,3] logits) {{{{
  a = Conv (images, a_weight, a_bias)
  r = {{between}}
  b = Conv (r, b_weight)
  p = GlobalAveragePool(b)
  logits = Reshape(p, shape)
}}}}"""
FACTORS = np.float32([256, 1, 1 / 256])


@pytest.fixture
def job(tmp_path):
    """quantize section, limits and operator -> (job, onnx stage, ranges stage)."""

    def make(quantize, limits=None, between="Relu(a)"):
        data = squares()
        recipe = Recipe.model_validate({
            "name": "squares", "model": {"arch": "vgg11_bn"}, "limits": limits or {},
            "quantize": {"calibration": {"images": 24}, "calibrator": "max", **quantize}})
        work = WorkDir(tmp_path)
        identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        stages = [work.stage("data", lambda folder: np.save(folder / "probe.npy", data.preprocess.normalize(data.val.images(range(4))))),
                  work.stage("export", lambda folder: write(
                      folder, NET.format(between=between), "model.onnx", a_weight=identity * FACTORS.reshape(3, 1, 1, 1),
                      a_bias=2 * FACTORS, b_weight=identity / FACTORS.reshape(1, 3, 1, 1), shape=np.array([0, -1], np.int64),
                      zero=np.float32(0), six=np.float32(1e9)) and None, section=between)]
        fed = data.preprocess.normalize(data.train.images(range(24)))
        stages.append(work.stage("calibrate", lambda folder: calibrate(
            stages[1].folder / "model.onnx", [fed], recipe.quantize.calibrator).save(folder / "ranges.json"), inputs=stages))
        return (SimpleNamespace(recipe=recipe, work=work, base=tmp_path, dataset=lambda: data, data=stages[0]),
                stages[1], stages[2])

    return make


def test_auto_stops_at_the_first_method_that_is_enough_and_says_what_it_gained(job, capsys):
    made, ranges = repaired(*job({"method": "ptq", "repair": "auto"}))
    assert made is ranges
    [record] = json.loads((made.folder / "repair.json").read_text())
    assert record["method"] == "cross_layer_equalization" and record["kept"]
    assert record["top1_after"] == 100 and record["top1_before"] < 70 and record["seconds"] > 0
    assert {path.name for path in made.folder.iterdir()} == {"model.onnx", "ranges.json", "repair.json", "verdict.json", "stage.json"}
    said = capsys.readouterr().err
    assert "1 pairs" in said and "within 0.5 points of float's 100.00 %" in said
    # the factors 256 and 1/256 are gone, and so is their mark on the ranges
    assert np.allclose(stored(made.folder / "model.onnx")["a_weight"].reshape(3, 3), np.eye(3), atol=1e-5)
    assert Ranges.load(ranges.folder / "ranges.json").activations["r"].amax < 8


def test_auto_tries_everything_when_nothing_helps_and_keeps_the_file_as_it_was(job, capsys):
    given = job({"method": "ptq", "repair": "auto"}, between="Clip(a, zero, six)")
    made, _ = repaired(*given)
    record = json.loads((made.folder / "repair.json").read_text())
    assert [entry["method"] for entry in record] == list(REPAIRS)
    assert not any(entry["kept"] or entry["top1_after"] > entry["top1_before"] for entry in record)
    assert (made.folder / "model.onnx").read_bytes() == (given[1].folder / "model.onnx").read_bytes()
    assert "nothing kept" in (said := capsys.readouterr().err) and "NOT within 0.5 points" in said


def test_auto_does_nothing_where_the_limit_holds_already_and_says_so(job, capsys):
    made, _ = repaired(*job({"method": "ptq", "repair": "auto"}, limits={"int8": {"top1_drop": 100}}))
    assert json.loads((made.folder / "repair.json").read_text()) == []
    verdict = json.loads((made.folder / "verdict.json").read_text())
    assert (verdict["tried"], verdict["limit"], verdict["limit_field"]) == (0, 100, "limits.int8.top1_drop")
    assert verdict["before"] == verdict["after"] < verdict["float_top1"] == 100
    assert "nothing had to be tried" in capsys.readouterr().err


def test_named_methods_are_all_applied_and_the_stage_is_not_made_twice(job):
    given = job({"method": "ptq", "repair": [{"method": "adaround", "iterations": 2, "rows": 64}, "smoothquant"]})
    made, ranges = repaired(*given)
    record = json.loads((made.folder / "repair.json").read_text())
    assert [(entry["method"], entry["top1_after"], entry["kept"]) for entry in record] == [
        ("smoothquant", None, True), ("adaround", None, True)]
    known = Ranges.load(ranges.folder / "ranges.json")
    assert set(known.weights) == {"a_weight", "b_weight"} and known.activations["r"].amax < 8
    assert repaired(*given)[0].cached


def test_int4_is_repaired_for_its_own_codes(job):
    made, _ = repaired(*job({"method": "ptq", "repair": ["smoothquant", "cross_layer_equalization"]}), precision="int4")
    said = {entry["method"]: entry["did"] for entry in json.loads((made.folder / "repair.json").read_text())}
    assert "skipped" in said["smoothquant"] and "1 pairs" in said["cross_layer_equalization"]


def test_without_a_repair_the_stages_pass_through(job):
    for quantize in ({"method": "ptq"}, {"method": "qat"}):
        given = job(quantize)
        assert repaired(*given) == given[1:]


def test_the_limit_is_the_precisions_own_then_the_common_one_then_half_a_point():
    def drop(limits):
        return allowed_drop(Recipe.model_validate({"name": "a", "model": {"arch": "vgg11_bn"}, "limits": limits}), "int8")

    assert (drop({"top1_drop": 2, "int8": {"top1_drop": 0}}), drop({"top1_drop": 2}), drop({})) == (
        (0, "limits.int8.top1_drop"), (2, "limits.top1_drop"), (0.5, None))


def test_auto_tries_the_methods_there_are_in_the_order_of_their_dict():
    assert [cfg.method for cfg in IN_ORDER_OF_COST] == list(REPAIRS)

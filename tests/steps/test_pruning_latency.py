"""Steps are kept only where an engine proves them. The engine is played here: its time is that of its file's layers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from toolchain.cli import main
from toolchain.errors import TrainError
from toolchain.graph.layer_file import LayerShape, layer_shapes
from toolchain.models.store import load_model
from toolchain.prune.groups import widths
from toolchain.prune.latency import Predictor, Ties
from toolchain.recipe.prune import Latency
from toolchain.recipe.schema import Export, OrtEngine
from toolchain.steps import latency_choice, latency_table
from toolchain.steps.latency_choice import Limits, search
from toolchain.steps.latency_table import export_of, fitted_overhead, grid, measured_table
from toolchain.steps.pruning_latency import lesson_of
from toolchain.steps.timing import Clock

RECIPE = Path(__file__).parents[2] / "recipes/prune/digits/latency.yaml"
FLAT = [n / 8 for n in range(9)]
CALL_MS, ELEMENT_MS, MAC_MS = 0.01, 1e-7, 1e-6


@pytest.fixture
def played(monkeypatch):
    """Every engine takes CALL_MS, ELEMENT_MS for each value its layers read or write, MAC_MS for each of their macs."""
    timed = []

    def timed_ms(files, how, folder=None):
        found = {name: list(layer_shapes(path).values()) for name, path in files.items()}
        timed.extend(found.values())
        cost = {name: CALL_MS + sum(MAC_MS * shape.macs for shape in shapes)
                + ELEMENT_MS * (shapes[0].elements + shapes[-1].elements) / 2 for name, shapes in found.items()}
        return {name: np.full((3, 2), ms) for name, ms in cost.items()}

    for module in (latency_table, latency_choice):
        monkeypatch.setattr(module, "timed_ms", timed_ms)
    monkeypatch.setattr(latency_table, "FINE", 3)
    monkeypatch.setattr(latency_table, "COARSE", 2)
    monkeypatch.setattr(latency_table, "RANDOM_NETWORKS", 1)
    return timed


def predictor(**ms_of_unit: float) -> Predictor:
    return Predictor({name: (Ties(3, 8, {}, {name: 1}), lambda i, o, ms=ms: ms * o)
                      for name, ms in ms_of_unit.items()}, dict.fromkeys(ms_of_unit, 8))


def limits(*groups: str) -> Limits:
    return Limits(dict.fromkeys(groups, 8), dict.fromkeys(groups, 2), dict.fromkeys(groups, FLAT))


def engine(ms_of_unit: dict[str, float], unsure: tuple[str, ...] = ()):
    """A measurement that knows what each unit costs; where a group of `unsure` moved, its interval holds 1."""
    asked = []

    def measure(accepted, proposed):
        asked.append((accepted, proposed))
        full, before, after = (sum(ms_of_unit[g] * units for g, units in kept.items())
                               for kept in (dict.fromkeys(ms_of_unit, 8), accepted, proposed))
        low = 0.99 if any(accepted[group] != proposed[group] for group in unsure) else before / after - 0.01
        return {"unpruned_ms": full, "accepted_ms": before, "measured_ms": after,
                "faster": {"value": before / after, "low": low, "high": before / after + 0.01},
                "speedup": {"value": full / after, "low": full / after - 0.01, "high": full / after + 0.01}}

    return measure, asked


def cfg(**fields) -> Latency:
    return Latency(method="latency", **{"budget": 0.5, "round_to": 1, "checks": 2, **fields})


def test_the_way_has_as_many_goals_as_checks_and_ends_within_the_budget():
    measure, asked = engine({"a": 1.0, "b": 1.0})
    checks = search(limits("a", "b"), predictor(a=1.0, b=1.0), cfg(), measure)
    # 16 ms; goals are 16 * 0.5 ** (1/2) = 11.3 and 8; equal groups lose in turn
    assert [check["measured_ms"] for check in checks] == [11.0, 8.0]
    assert [check["predicted_ms"] for check in checks] == pytest.approx([11.0, 8.0])
    assert asked[1][0] == checks[0]["widths"]
    assert sorted(checks[1]["widths"].values()) == [4, 4]


def test_a_prediction_that_promised_too_much_is_mended_by_what_was_measured():
    measure, _ = engine({"a": 1.0, "b": 3.0})  # 32 ms, of which the table takes half for a's
    checks = search(limits("a", "b"), predictor(a=1.0, b=1.0), cfg(), measure)
    assert all(check["accepted"] for check in checks)
    assert checks[-1]["measured_ms"] <= 16.0
    # at the second check the prediction starts from the measured share
    first, second = checks[:2]
    share = sum(second["widths"].values()) / sum(first["widths"].values())
    assert second["predicted_ms"] == pytest.approx(first["measured_ms"] * share)


def test_steps_that_are_not_measurably_faster_are_taken_back_and_their_groups_stay():
    measure, asked = engine({"a": 1.0, "b": 1.0}, unsure=("a",))
    played = predictor(a=4.0, b=1.0)  # the table believes that a costs most
    checks = search(limits("a", "b"), played, cfg(budget=0.7), measure)
    assert [check["accepted"] for check in checks][0] is False
    assert all(proposed["a"] == 8 for _, proposed in asked[1:])
    assert checks[-1]["accepted"] and checks[-1]["measured_ms"] <= 0.7 * 16


def test_an_unreachable_budget_is_refused_with_the_best_that_was_reached():
    measure, _ = engine({"a": 1.0, "b": 1.0}, unsure=("b",))
    with pytest.raises(TrainError) as caught:
        search(limits("a", "b"), predictor(a=1.0, b=1.0), cfg(budget=0.2), measure)
    assert "prune.budget: 0.2 of the unpruned latency is out of reach" in str(caught.value)
    assert "no network was measurably faster" in str(caught.value) and "2 groups were given up" in str(caught.value)
    with pytest.raises(TrainError, match=r"reached 4.000 of 16.000 ms \(0.25\) with at most 0.9"):
        search(limits("a", "b"), predictor(a=1.0, b=1.0), cfg(budget=0.2), engine({"a": 1.0, "b": 1.0})[0])


def test_an_interrupted_search_goes_on_with_the_checks_that_were_done():
    costs, kept = {"a": 1.0, "b": 1.0}, []
    whole = search(limits("a", "b"), predictor(**costs), cfg(checks=4), engine(costs)[0], keep=kept.append)
    measure, asked = engine(costs)
    again = search(limits("a", "b"), predictor(**costs), cfg(checks=4), measure, done=json.loads(json.dumps(whole[:2])))
    assert again == whole and len(asked) == len(whole) - 2


def test_what_an_engine_costs_besides_its_layers_is_found_from_chains():
    # overhead 2 + 0.1 * elements; layers of 5 and 7 ms
    found = fitted_overhead([(10, 3 + 5, 3 + 15), (40, 6 + 7, 6 + 21)])
    assert found == pytest.approx({"base": 2.0, "per_element": 0.1})
    assert fitted_overhead([]) == {"base": 0.0, "per_element": 0.0}
    assert fitted_overhead([(10, 5, 16), (20, 5, 16)]) == {"base": 0.0, "per_element": 0.0}  # noise: never negative


def test_a_grid_holds_both_axes_at_full_width_and_a_coarse_net():
    shape = LayerShape("conv", 64, 64, (3, 3), padding=(1, 1), height=8, width=8)
    tied = Ties(64, 64, {"a": 1}, {"b": 1})
    shapes, coarse = grid(shape, tied, {"a": 64, "b": 64}, {"a": 32, "b": 48}, 8)
    points = {(shape.in_channels, shape.out_channels) for shape in shapes}
    assert coarse == ([32, 40, 56, 64], [48, 56, 64]) and len(points) == len(shapes)
    assert {(i, 64) for i in (32, 40, 48, 56, 64)} | {(i, o) for i in coarse[0] for o in coarse[1]} == points
    depthwise = LayerShape("conv", 64, 64, (3, 3), padding=(1, 1), groups=64, height=8, width=8)
    shapes, coarse = grid(depthwise, Ties(64, 64, {"a": 1}, {"a": 1}), {"a": 64}, {"a": 48}, 8)
    assert [(s.in_channels, s.out_channels, s.groups) for s in shapes] == [(48,) * 3, (56,) * 3, (64,) * 3]


def test_a_build_leaves_a_network_within_the_budget_and_how_it_was_found(tmp_path, played):
    sets = ["model.arch=studentnet", "model.width=0.5", "prune.round_to=8", "prune.saliency=taylor", "prune.checks=1", "train.epochs=1",
            "prune.finetune.epochs=1", "measure.rounds=2", "measure.runs_per_round=1", "measure.warmup=1",
            "measure.throughput_batches=[1]", "measure.gradcam_images=0", "quantize.calibration.images=16"]
    with pytest.raises(SystemExit) as left:
        main(["build", str(RECIPE), "--out", str(tmp_path / "out"), *(word for each in sets for word in ("--set", each))])
    assert left.value.code == 0
    history = json.loads((tmp_path / "out/student/architecture.json").read_text())["pruned"]
    latency, last = history["latency"], history["latency"]["checks"][-1]
    assert (history["method"], latency["engine"]) == ("latency", "fp32.onnxruntime.cpu_x86")
    assert latency["pruned_ms"] <= 0.6 * latency["unpruned_ms"] and last["accepted"]
    assert 1 / latency["speedup"]["value"] == pytest.approx(latency["pruned_ms"] / latency["unpruned_ms"])
    assert last["predicted_ms"] == pytest.approx(last["measured_ms"], rel=0.1)
    found = widths(load_model(tmp_path / "out/student"))
    assert {name: found[name] for name in last["widths"]} == last["widths"]
    assert all(units % 8 == 0 for units in last["widths"].values())
    assert history["rounds"][0]["macs"] > 0 and history["rounds"][0]["epochs"] == 1
    learned = json.loads(next((tmp_path / "out/stages").glob("prune-*/history.json")).read_text())
    assert "method" in json.dumps(learned[0])  # the unpruned network's logits were a term of the loss


def test_a_table_is_measured_on_real_engines_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from train_data import small_net

    for name, value in {"FINE": 2, "COARSE": 2, "RANDOM_NETWORKS": 1}.items():
        monkeypatch.setattr(latency_table, name, value)
    job = SimpleNamespace(dataset=lambda: SimpleNamespace(classes="abc"),
                          recipe=SimpleNamespace(export=Export(), data=SimpleNamespace(image_size=8)))
    how = Clock(OrtEngine(runtime="onnxruntime", precision="int8"), threads=1, warmup=1, rounds=2, runs=1)
    table = measured_table(small_net(), 8, cfg(round_to=2), how, tmp_path, export_of(job))
    conv, head = (table["surfaces"][table["layers"][name]] for name in ("0", "6"))
    assert {(i, o) for i, o, _ in conv["points"]} == {(3, 2), (3, 8)} and conv["coarse"] == [[3], [2, 8]]
    assert {(i, o) for i, o, _ in head["points"]} == {(8, 3), (32, 3)}  # two units of four pixels
    assert all(ms > 0 for surface in table["surfaces"] for *_, ms in surface["points"])
    assert table["calibration"]["scale"] > 0 and table["engine"]["precision"] == "int8"

    def never(files, how, folder=None):
        assert set(files) <= {"0", "1"}, "only whole networks are timed again"
        return {name: np.ones((2, 1)) for name in files}

    monkeypatch.setattr(latency_table, "timed_ms", never)
    again = measured_table(small_net(), 8, cfg(round_to=2), how, tmp_path, export_of(job))
    assert again["surfaces"] == table["surfaces"]


def test_who_teaches_after_pruning():
    def job(distill):
        return SimpleNamespace(recipe=SimpleNamespace(distill=distill))

    taught = object()
    assert lesson_of(job(object()), cfg(), None, taught) is taught  # the recipe's own teacher
    assert lesson_of(job(None), cfg(self_distill=None), None, taught) is taught
    assert lesson_of(job(None), cfg(), None, taught) is not taught

"""Mixed engines through whole builds of one small digits network, trained once; and the budget's search, played."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from toolchain.build import build
from toolchain.errors import EngineError, RecipeError
from toolchain.recipe.load import load_recipe
from toolchain.recipe.mixed import Adaptive, Budget, Simple, Uniform
from toolchain.recipe.quantize import Int4, Int8
from toolchain.sensitivity.file import Baseline, LayerScan, Point, Sensitivity, write_sensitivity
from toolchain.steps.mixing import _sensitivity, choose, refuse_mixed
from toolchain.steps.mixing_budget import within_budget
from toolchain.steps.mixing_table import Table, barred
from toolchain.steps.mixing_trial import Trial, spread_evenly
from toolchain.workdir import WorkDir

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "quantize" / "digits" / "mixed_simple.yaml"
QUICK = ["train.epochs=1", "model.width=0.125", "quantize.calibration.images=8", "measure.rounds=2", "measure.runs_per_round=3",
         "measure.warmup=1", "measure.throughput_batches=[1]"]
NAME = "mixed.onnxruntime.cpu_x86"
SCAN = "scan: {images: 24}"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def run(stages: Path, tmp_path: Path):
    """overrides -> (assignment.json, the output folder); every build shares its stages."""

    def go(*overrides: str, dry: bool = False):
        work = WorkDir(tmp_path, stages, dry)
        engines = "engines=[{runtime: onnxruntime, precision: int8}, {runtime: onnxruntime, precision: mixed}]"
        build(load_recipe(RECIPE, [*QUICK, engines, *overrides]), work, RECIPE.parent, [tmp_path])
        if dry:
            return {stage.name: stage.key for stage in work.stages}
        return json.loads((tmp_path / f"engines/{NAME}/assignment.json").read_text()), tmp_path

    return go


def kinds(found) -> list[str]:
    return [layer["precision"] for layer in found["layers"]]


def test_uniform_is_the_int8_engine_whatever_that_keeps_float(run) -> None:
    found, out = run("quantize.mixed=uniform", "quantize.int8={first_last: float, keep_float: [features.4]}")
    assert kinds(found) == ["fp32", "fp32"] + ["int8"] * 6 + ["fp32"]
    assert [layer["fixed"] for layer in found["layers"]] == [True, True] + [False] * 6 + [True]
    engines = [out / f"engines/{name}/engine.onnx" for name in ("int8.onnxruntime.cpu_x86", NAME)]
    assert engines[0].read_bytes() == engines[1].read_bytes()
    with pytest.raises(RecipeError, match="quantize.mixed.layers: found 'featurs.4', expected names of layers .*did you mean 'features.4'"):
        run("quantize.mixed={policy: simple, layers: {featurs.4: int8}}")


def test_adaptive_and_its_report(run) -> None:
    found, out = run(f"quantize.mixed={{policy: adaptive, {SCAN}}}")
    assert sorted(kinds(found)) == ["fp16"] * 3 + ["int4"] * 3 + ["int8"] * 3
    assert found["measured"]["kl_nats"] >= 0 and found["predicted"]["loss_nats"] == pytest.approx(sum(layer["loss_nats"] for layer in found["layers"]))
    assert NAME in (out / "report.md").read_text()


def test_a_budget_of_bytes_holds_in_the_file_and_an_impossible_one_says_the_smallest(run) -> None:
    found, out = run(f"quantize.mixed={{policy: budget, bytes: 0.2, {SCAN}}}")
    measured, limit = found["measured"], found["budget"]["limit"]
    assert limit == int(0.2 * measured["fp32_weight_bytes"]) >= measured["weight_bytes"]
    engine = json.loads((out / f"engines/{NAME}/engine.json").read_text())
    assert engine["weight_bytes"] == measured["weight_bytes"] == found["checks"][-1]["weight_bytes"]
    with pytest.raises(RecipeError, match=r"quantize.mixed.bytes: 10000 is 10,000 bytes of weights, but the smallest possible is [\d,]+ \(0.1\d+ of"):
        run(f"quantize.mixed={{policy: budget, bytes: 10000, {SCAN}}}")


def test_a_budget_of_latency_is_held_by_an_engine_that_was_rebuilt(run, monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = []

    def timed(trial, folders, how):
        """Every engine opens; FP32 takes 10 ms, all others 5."""
        clocked.append({name: (folder / "engine.onnx").is_file() for name, folder in folders.items()})
        return {name: np.full((2, 3), 10.0 if name == "fp32" else 5.0) for name in folders}

    monkeypatch.setattr(Trial, "timed", timed)
    found, _ = run(f"quantize.mixed={{policy: budget, latency: 0.6, precisions: [int8], {SCAN}}}")
    assert set(kinds(found)) == {"int8"} and found["budget"] == {"kind": "latency", "asked": 0.6, "limit": pytest.approx(6.0)}
    assert found["measured"]["share"] == pytest.approx(0.5) and found["measured"]["latency_ms"] == 5.0
    assert clocked == [{"fp32": True, "anchor": True}, {"fp32": True, "mixed": True}]


def test_plan_names_the_stages(run) -> None:
    names = list(run(f"quantize.mixed={{policy: adaptive, {SCAN}}}", dry=True))
    order = [names.index(name) for name in ("calibrate", "sensitivity_quantize", f"assignment_{NAME}", f"onnx_{NAME}", f"engine_{NAME}")]
    assert order == sorted(order)


def write_scan(path: Path, *names: str) -> Path:
    points = [Point(precision=kind, top1_percent=90.0, drop=0.0, kl_nats=0.1) for kind in ("int8", "int4")]
    write_sensitivity(path, Sensitivity(kind="quantize", images=1, baseline=Baseline(top1_percent=90.0),
                                        layers=[LayerScan(name=name, parameters=1, points=points) for name in names]))
    return path


def test_the_images_that_judge_and_the_layers_kept_float_are_in_the_stages_key(run, tmp_path: Path) -> None:
    file = write_scan(tmp_path / "given.json", "features.0")

    def key(images: int, *more: str) -> str:
        scan = f"scan: {{file: {file}, images: {images}}}"
        return run(f"quantize.mixed={{policy: adaptive, {scan}}}", *more, dry=True)[f"assignment_{NAME}"]

    assert key(24) == key(24)
    assert len({key(24), key(25), key(24, "quantize.int8.first_last=float"), key(24, "quantize.int4.keep_float=[features.4]")}) == 4


@pytest.mark.parametrize(("overrides", "said"), [
    (["quantize.mixed=null"], "engines.2: precision mixed needs a quantize.mixed section"),
    (["engines=[{runtime: onnxruntime, precision: int8}]"], "quantize.mixed: no engine is mixed; add"),
    (["quantize={method: gpfq, mixed: simple}"], "quantize.mixed: the codes of quantize: gpfq have one width"),
    (["quantize.mixed={policy: budget}"], "give one of bytes and latency, found neither"),
    (["quantize.mixed={policy: budget, bytes: 0.2, latency: 0.5}"], "give one of bytes and latency, found both"),
    (["quantize.mixed={policy: budget, bytes: 0.1}"], "no weights take that little: int4 alone is 0.125 of FP32's"),
    (["quantize.mixed={policy: simpel}"], "did you mean 'simple'"),
    (["quantize.mixed={policy: simple, layers: {a: int3}}"], "found 'int3', expected fp32 or fp16 or int8 or int8_weight_only or int4"),
])
def test_what_cannot_be_is_refused_when_the_recipe_is_read(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(RECIPE, overrides)
    assert said in str(refused.value)


def test_a_latency_budget_of_an_engine_that_cannot_run_here_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.engines.ort.not_runnable", lambda cfg: "no GPU")
    recipe = load_recipe(RECIPE, ["quantize.mixed={policy: budget, latency: 0.5}"])
    with pytest.raises(EngineError, match="quantize.mixed.latency: onnxruntime mixed on cpu_x86 cannot be timed here: no GPU; the budget decides"):
        refuse_mixed(recipe, {NAME: recipe.engines[2]})


def test_each_layers_own_latency_is_scaled_to_the_whole_networks() -> None:
    assert spread_evenly({"a": 1.0, "b": 3.0}, 2.0) == {"a": 0.5, "b": 1.5}
    assert spread_evenly({"a": 1.0, "b": -3.0}, 2.0) == {"a": 1.0, "b": -3.0}  # noise is no scale


class Played:
    """Two layers; fp16 takes 2 ms more than int8's 1 ms each, and the whole engine `wrong` times what that adds up to."""

    names = {"a": 100, "b": 100}
    engine = SimpleNamespace(runtime="played", target="here")
    small = ("b",)

    def __init__(self, folder: Path, wrong: float, int8: Int8 | None = None, int4: Int4 | None = None) -> None:
        self.job = SimpleNamespace(recipe=SimpleNamespace(quantize=SimpleNamespace(int8=int8 or Int8(), int4=int4 or Int4())))
        self.scratch, self.wrong, self.built = folder / "trial", wrong, list[tuple[str, ...]]()

    def layer_bytes(self):
        return {name: {"fp32": 400, "fp16": 200, "int8": 100, "int8_weight_only": 100, "int4": 50} for name in self.names}

    def rest_float(self, offered) -> str:
        return "fp32"

    def rest_bytes(self) -> int:
        return 10

    def fp32_bytes(self) -> int:
        return 810

    def check(self, assignment, joins, judge):
        return {"weight_bytes": 10, "kl_nats": 0.0}

    def engine_folder(self, name, assignment, joins=True):
        return "fp32" if assignment is None else tuple(assignment.values())

    def timed(self, folders, how):
        def ms(kinds):
            return 10.0 if kinds == "fp32" else self.wrong * sum({"fp16": 3.0, "int8": 1.0}[kind] for kind in kinds)

        self.built += [kinds for name, kinds in folders.items() if name == "mixed"]
        return {name: np.full((3, 2), ms(kinds)) for name, kinds in folders.items()}

    def timed_beside(self, anchor, others, how):
        for name, kinds in others.items():
            yield name, sum({"fp16": 2.0, "int8": 0.0}[kind] for kind in kinds.values())


def played(folder: Path, wrong: float, **budget):
    cfg = Budget(policy="budget", precisions=("fp16", "int8"), **budget)
    trial = Played(folder, wrong)
    losses = {"a": {"fp16": 0.0, "int8": 0.3}, "b": {"fp16": 0.0, "int8": 0.1}}
    return trial, lambda: within_budget(cfg, trial, Table(losses, trial.layer_bytes(), {}), SimpleNamespace(seed=0))


def test_a_rebuilt_engine_that_misses_the_budget_is_proposed_anew(tmp_path: Path) -> None:
    trial, search = played(tmp_path, 1.0, latency=0.45)  # 4.5 ms: one layer may be fp16, the one that loses more
    assert search()[0] == {"a": "fp16", "b": "int8"}
    trial, search = played(tmp_path, 1.2, latency=0.45)  # foretold 1.2 * 2 + 2 = 4.4 ms, measured 4.8
    chosen, joins, budget, checks = search()
    assert trial.built == [("fp16", "int8"), ("int8", "int8")] and chosen == {"a": "int8", "b": "int8"}
    assert [check["accepted"] for check in checks] == [False, True] and joins and budget["limit"] == pytest.approx(4.5)


def test_a_budget_of_latency_out_of_reach_says_what_was_reached(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"quantize.mixed.latency: 0.1 of the FP32 engine's p50 is out of reach on played here; the fastest of 1 rebuilt engines took 2.000 of 10.000 ms \(0.20\)"):
        played(tmp_path, 1.0, latency=0.1)[1]()


def test_a_scan_of_another_network_is_refused(tmp_path: Path) -> None:
    write_scan(tmp_path / "sensitivity.json", "a")
    assert _sensitivity(SimpleNamespace(folder=tmp_path), ["a"]) == {"a": {"int8": 0.1, "int4": 0.1}}
    with pytest.raises(RecipeError, match="quantize.mixed.scan.file: lacks layer b at int8 and int4"):
        _sensitivity(SimpleNamespace(folder=tmp_path), ["a", "b"])


LOSSES = {"a": {"int8": 0.1, "int4": 0.4}, "b": {"int8": 0.2, "int4": 0.3}, "c": {"int8": 0.5, "int4": 0.9}}


class Three(Played):
    """Three layers of which b, depthwise, has too few weights per output for INT4."""

    names = {"a": 100, "b": 100, "c": 100}


def chosen(folder: Path, cfg, **sections):
    found = choose(cfg, Three(folder, 1.0, **sections), LOSSES if isinstance(cfg, (Adaptive, Budget)) else None, None)
    return found, kinds(found)


def test_a_layer_that_a_section_keeps_float_is_not_offered_its_precision(tmp_path: Path) -> None:
    ends, middle = Int8(first_last="float"), Int8(keep_float=("b",))
    assert chosen(tmp_path, Uniform(policy="uniform"), int8=ends)[1] == ["fp32", "int8", "fp32"]
    assert chosen(tmp_path, Uniform(policy="uniform", precision="int8_weight_only"), int8=middle)[1][1] == "fp32"
    assert chosen(tmp_path, Uniform(policy="uniform", layers={"a": "int8"}), int8=ends)[1] == ["int8", "int8", "fp32"]
    assert chosen(tmp_path, Simple(policy="simple"), int8=middle)[1] == ["fp16", "fp32", "fp16"]
    budget = Budget(policy="budget", bytes=0.9, precisions=("int8",))
    assert chosen(tmp_path, budget, int8=middle)[1] == ["int8", "fp32", "int8"]
    # of terciles c, a, b: b would be INT4, is not offered it, and takes the next more exact
    assert chosen(tmp_path, Adaptive(policy="adaptive"))[1] == ["int8", "int8_weight_only", "fp16"]
    assert chosen(tmp_path, Adaptive(policy="adaptive"), int4=Int4(keep_float=("b",)))[1] == ["int8", "int8", "fp16"]
    assert chosen(tmp_path, Adaptive(policy="adaptive"), int4=Int4(keep_float=("b",)), int8=middle)[1][1] == "fp16"


def test_int8_weights_alone_count_the_loss_of_int8_and_a_small_layer_says_what_it_stores(tmp_path: Path) -> None:
    budget = Budget(policy="budget", bytes=0.9, precisions=("int4",), layers={"a": "int8_weight_only"})
    found, kind = chosen(tmp_path, budget)
    assert kind == ["int8_weight_only", "int8_weight_only", "int4"] and [row["fixed"] for row in found["layers"]] == [True, False, False]
    assert [row["loss_nats"] for row in found["layers"]] == [0.1, 0.3, 0.9]  # b: as scanned at int4, which stores the same
    assert found["predicted"]["loss_nats"] == pytest.approx(1.3) == found["checks"][0]["loss_nats"]
    assert [row["bytes"] for row in found["layers"]] == [100, 100, 50]
    assert barred(["a", "b"], Int8(first_last="float"), Int4())["int8_weight_only"] == {"a", "b"}

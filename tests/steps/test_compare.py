"""Comparisons: who may stand in one, what each refusal says, and the figures worked by hand."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolchain.engines.record import EngineRecord
from toolchain.errors import DataError, DigestMismatch, EngineError, RecipeError, ToolchainError
from toolchain.published import write_origin
from toolchain.report.schema import DataFacts, EngineResult, EnvironmentFacts, Report
from toolchain.steps.compare import compare_builds, judged
from toolchain.steps.compare_table import difference_lines, render_markdown, signed_nats
from toolchain.steps.contestants import find_contestants, shared_test_set

FP32, INT8, RTX = "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86", "fp16.tensorrt_rtx.sm86"


def build(folder: Path, *engines: str, **data: Any) -> Path:
    """A finished build as far as its papers go."""
    results = []
    for name in engines:
        precision, runtime, target = name.split(".")
        record = EngineRecord(name, precision, precision, runtime, "1", target, "0" * 64, "engine.onnx", name, 1, 1, "CPU",
                              None, [])
        (folder / "engines" / name).mkdir(parents=True)
        (folder / "engines" / name / "engine.json").write_text(json.dumps(asdict(record)))
        results.append(EngineResult(name=name, precision=precision, runtime=runtime, target=target, sha256=name,
                                    measured=False, reason="a test"))
    facts = {"name": "digits", "classes": [str(i) for i in range(10)], "train": 1, "val": 1, "test": 1,
             "split_sha256": "0" * 64, **data}
    report = Report(recipe={"data": {"source": "digits"}}, environment=EnvironmentFacts(), stages=[], engines=results,
                    data=DataFacts.model_validate(facts))
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(report.to_json())
    return folder


def complaint(kind: type[ToolchainError], *words: object, engine: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        find_contestants([str(word) for word in words], engine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_build_answers_with_fp32_on_onnx_runtime_unless_another_engine_is_named(tmp_path: Path) -> None:
    a = build(tmp_path / "a", INT8, FP32)
    assert [c.engine for c in find_contestants([str(a), f"{a}:{INT8}"])] == [FP32, INT8]
    assert [c.engine for c in find_contestants([str(a), f"{a}:{FP32}"], engine=INT8)] == [INT8, FP32]


def test_names_are_short_and_no_two_are_alike(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    a, b, other = build(tmp_path / "a", FP32, INT8), build(tmp_path / "b", FP32), build(tmp_path / "x" / "a", FP32)
    assert [c.name for c in find_contestants([str(a), str(b), f"{a}:{INT8}", str(b)])] == ["a", "b", f"a:{INT8}", "b (2)"]
    assert [c.name for c in find_contestants([str(a), str(other)])] == [a.as_posix(), other.as_posix()]


def test_what_is_no_finished_build_is_named(tmp_path: Path) -> None:
    a = build(tmp_path / "vgg11_taught", FP32)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "net.onnx").write_text("")
    assert "did you mean 'vgg11_taught'?" in complaint(RecipeError, a, tmp_path / "vgg11_tought")
    assert "holds no report.json" in complaint(RecipeError, a, tmp_path / "unfinished")
    assert "neither a finished build's folder nor an .onnx file" in complaint(RecipeError, a, tmp_path / "notes.txt")
    assert "leave ':int8' out" in complaint(RecipeError, a, f"{tmp_path}/net.onnx:int8")


def test_the_beginning_of_a_name_means_the_one_engine_that_runs_here(tmp_path: Path, monkeypatch: Any) -> None:
    from toolchain.engines import rtx

    a = build(tmp_path / "a", FP32, INT8, other := "int8.tensorrt_rtx.sm86")
    for reason in ("no GPU", None):
        monkeypatch.setattr(rtx, "not_runnable", lambda cfg, reason=reason: reason)
        assert [c.engine for c in find_contestants([f"{a}:fp32"])] == [FP32]
        if reason:
            assert [c.engine for c in find_contestants([f"{a}:int8"])] == [INT8]
    assert f"'int8' means 2 engines; name one: {INT8} or {other}" in complaint(RecipeError, f"{a}:int8")


def test_data_is_looked_up_where_the_build_found_it_after_the_usual_places(tmp_path: Path, monkeypatch: Any) -> None:
    from toolchain import data

    def looked_up(section: Any, roots: list[Path]) -> None:
        raise DataError(" ".join(map(str, roots)))

    monkeypatch.setattr(data, "load_dataset", looked_up)
    a = build(tmp_path / "a", FP32)
    write_origin(a, [tmp_path / "usual", tmp_path / "recipes"])
    with pytest.raises(DataError, match=f"^{tmp_path}/usual {a} {tmp_path}/recipes$"):
        shared_test_set(find_contestants([str(a)]), None, tmp_path / "usual")


def test_an_engine_that_is_not_there_shows_those_that_are(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", FP32, INT8), build(tmp_path / "b", INT8)
    message = complaint(RecipeError, a, a, engine="int8.onnxruntime.cpu_x68")
    assert f"did you mean '{INT8}'?" in message and f"expected {FP32}, {INT8}" in message
    assert f"{b}: has no fp32 engine of ONNX Runtime" in complaint(RecipeError, a, b)
    assert "no argument would take it" in complaint(RecipeError, f"{a}:{FP32}", f"{a}:{INT8}", engine=INT8)


def test_an_engine_of_another_device_says_why_and_what_can_run(tmp_path: Path, monkeypatch: Any) -> None:
    from toolchain.engines import rtx

    monkeypatch.setattr(rtx, "not_runnable", lambda cfg: "no GPU")
    a = build(tmp_path / "a", FP32, RTX)
    assert f"engine {RTX} cannot run here: no GPU; choose {FP32}" in complaint(EngineError, a, f"{a}:{RTX}")


def test_an_engine_that_the_report_is_not_about_is_refused(tmp_path: Path) -> None:
    a = build(tmp_path / "a", FP32)
    record = a / "engines" / FP32 / "engine.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "f" * 64}))
    assert "ffffffffffffffff" in complaint(DigestMismatch, a, a)


def test_files_of_no_comparison_are_not_overwritten(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(RecipeError, match=words):
            compare_builds(tmp_path, None, [], None, None, 0)  # type: ignore[arg-type]

    (tmp_path / "gradcam.png").write_text("mine")
    refused("has a gradcam.png that is of no comparison")
    (tmp_path / "compare.json").write_text("{}")
    refused("compare.json: exists and is not a comparison")
    (tmp_path / "report.json").touch()
    refused("is a build, whose files would be overwritten")


def test_other_data_is_refused_by_name(tmp_path: Path) -> None:
    from toolchain.data import load_dataset
    from toolchain.recipe.schema import Digits

    digits = load_dataset(Digits(source="digits"), [])

    def refused(first: Path, second: Path) -> str:
        with pytest.raises(DataError) as caught:
            shared_test_set(find_contestants([str(first), str(second)]), None, None)
        return str(caught.value)

    good = build(tmp_path / "good", FP32, split_sha256=digits.split_sha256)
    digits.preprocess.save(good / "preprocess.json")
    other = build(tmp_path / "other", FP32, split_sha256="1" * 64)
    few = build(tmp_path / "few", FP32, classes=["0", "1"])
    renamed = build(tmp_path / "renamed", FP32, classes=["0", "one", *map(str, range(2, 10))])
    larger = build(tmp_path / "larger", FP32, split_sha256=digits.split_sha256)
    (larger / "preprocess.json").write_text(json.dumps({**digits.preprocess.to_json(), "image_size": 64}))
    assert f"{other}: found split 111111111111, expected {digits.split_sha256[:12]}" in refused(good, other)
    assert "--data-root" in refused(other, good)
    assert f"{few}: found 2 classes, expected 10" in refused(good, few)
    assert f"{renamed}: found class 1 'one', expected '1'" in refused(good, renamed)
    assert "image_size: found 64, expected 32" in refused(good, larger)


def test_onnx_files_alone_need_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("")
    with pytest.raises(RecipeError, match="--recipe"):
        shared_test_set(find_contestants([str(tmp_path / "net.onnx")] * 2), None, None)


def test_figures_are_those_worked_by_hand() -> None:
    labels = np.array([0, 1, 0, 1])
    teacher = np.log(np.array([[3.0, 1], [1, 3], [3, 1], [3, 1]], np.float32))  # 3/4 sure; the last one is wrong
    even = np.log(np.array([[1.0, 1], [1, 1], [1, 1], [1, 1]], np.float32))  # always answers class 0
    logits = {"T": teacher, "even": even, "same": teacher}
    found, values = judged(["T", "even", "same"], logits, None, labels, seed=0)
    one, other = found["students"]
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found["teacher"]["top1_percent"] == 75.0
    assert one["kl_nats"]["value"] == pytest.approx(kl, rel=1e-6) and one["top1_percent"] == 50.0
    assert one["agreement_percent"]["value"] == 75.0
    assert other["kl_nats"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    [difference] = found["differences"]
    assert (difference["name"], difference["versus"]) == ("same", "even")
    assert difference["kl_nats"]["value"] == pytest.approx(-kl, rel=1e-6)
    assert difference["kl_nats"]["verdict"] == "lower"  # by the same amount on every image
    assert difference["top1_percent"]["value"] == 25.0  # one image of four, which a resample may miss
    assert difference["top1_percent"]["verdict"] == "no difference"
    assert difference["jittered_top1_percent"] is None
    assert values["even.right"].tolist() == [True, False, True, False]


def test_students_are_also_compared_on_jittered_images() -> None:
    labels = np.array([0, 0, 0, 0])
    right, wrong = np.tile(np.float32([2, 1]), (4, 1)), np.tile(np.float32([1, 2]), (4, 1))
    clean = {"T": right, "plain": right, "firm": right}
    found, _ = judged(["T", "plain", "firm"], clean, {"T": right, "plain": wrong, "firm": right}, labels, seed=0)
    assert found["students"][0]["jitter"]["drop"]["value"] == 100.0
    assert found["teacher"]["jitter"]["drop"]["value"] == 0.0
    [difference] = found["differences"]
    assert difference["jittered_top1_percent"] == {"value": 100.0, "low": 100.0, "high": 100.0, "verdict": "higher"}
    assert "jittered top-1 +100.00 points (+100.00 to +100.00): higher" in difference_lines(found)[0]


def test_a_sign_stands_before_what_is_not_zero() -> None:
    assert [signed_nats(v) for v in (0.5, -0.00001, 0.0, -1.43e-17)] == ["+0.5000", "−0.000010", "0", "0"]


def test_js_reads_alike_in_a_comparison_and_in_a_report() -> None:
    from toolchain.report import taught
    from toolchain.steps import compare_table

    assert compare_table.nats is taught.nats


def test_a_network_of_ones_own_is_named_with_the_option_that_defines_it(tmp_path: Path) -> None:
    a = build(tmp_path / "a", FP32)
    (a / "student").mkdir()
    (a / "published.json").write_text("{}")
    (a / "student" / "architecture.json").write_text(json.dumps(
        {"model": {"arch": "mine"}, "num_classes": 10, "pruned": None, "folded": False}))
    with pytest.raises(RecipeError) as caught:
        find_contestants([str(a)])[0].network()
    assert str(caught.value) == f"{a}: its network 'mine' is one of your own; name the file that defines it: --import FILE.py"


def test_markdown_says_why_there_are_no_maps() -> None:
    logits = {name: np.float32([[1, 2], [2, 1]]) for name in ("T", "s")}
    found, _ = judged(["T", "s"], logits, None, np.array([1, 0]), seed=0)
    for row in (found["teacher"], *found["students"]):
        row |= {"path": "p", "engine": None, "sha256": "0" * 64, "gradcam": None, "gradcam_reason": "s has no network"}
    text = render_markdown({**found, "dataset": "d", "images": 2, "sheet": None, "jitter": None})
    assert "no Grad-CAM: s has no network" in text and "| `s` | 100.00" in text

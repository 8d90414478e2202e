"""A pruned build in words and pictures: hand-made facts, whose figures are worked out here by hand."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from toolchain.report import pruned_plot, pruned_words
from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.pruned import Histogram, LatencyCheck, Pruning
from toolchain.report.schema import Report, load_report
from toolchain.report.table import print_report

FP32, INT8, OLD = "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86", "unpruned.fp32.onnxruntime.cpu_x86"
BINS = {"before": [0] * 31 + [5, 9] + [0] * 31, "after": [0] * 31 + [2, 1] + [0] * 31}
FACTS: dict[str, Any] = {
    "method": "channels", "unstructured": False,
    "before": {"parameters": 9_231_114, "macs": 153_300_000, "weights": 9_000_000, "zeros": 0, "val_top1_percent": 92.0},
    "after": {"parameters": 2_769_334, "macs": 45_990_000, "weights": 2_700_000, "zeros": 0, "val_top1_percent": 91.5},
    "layers": [
        {"name": "features.<b>", "shape": [64, 3, 3, 3], "after": [{"name": "features.<b>", "shape": [32, 3, 3, 3]}], "weights": 1728,
         "weights_after": 864, "zeros": 0, "zeros_after": 0, "macs": 1_769_472, "macs_after": 884_736, "histogram": {"limit": 0.25, **BINS}},
        {"name": "classifier", "shape": [10, 512], "after": [{"name": "classifier.0", "shape": [4, 512]}, {"name": "classifier.1", "shape": [10, 4]}],
         "weights": 5120, "weights_after": 2088, "zeros": 0, "zeros_after": 0, "macs": 5120, "macs_after": 2088, "histogram": None}],
    "rounds": [{"round": 1, "epochs": 2, "val_top1_percent": 91.75, "removed": 0.4, "parameters": 5_538_668, "macs": 90_000_000},
               {"round": 2, "epochs": 2, "val_top1_percent": 91.5, "removed": 0.7, "parameters": 2_769_334, "macs": 45_990_000}],
    "checks": [{"predicted_ms": 1.1, "measured_ms": 1.0, "accepted": True}, {"predicted_ms": 0.5, "measured_ms": 0.625, "accepted": False}],
    "gradcam": {
        "student_layer": "features.20", "teacher_layer": "features.27", "grid": [4, 4],
        "cosine": {"value": 0.7531, "low": 0.735, "high": 0.7712}, "centred_cosine": {"value": -0.0214, "low": -0.061, "high": 0.018},
        "random_cosine": 0.6112, "random_centred_cosine": 0.011, "student_zero_percent": 1.11, "teacher_zero_percent": 0.28,
        "random_zero_percent": 7.22, "sheet": "pruned_gradcam.png"},
    "gradcam_images": 200, "gradcam_reason": None,
}


@pytest.fixture
def pruned(engines: list[dict[str, Any]], joined: Callable[..., Report]) -> Callable[..., Report]:
    """The made-up build with these facts beside FACTS: FP32 is 2.5 times as fast as it was, INT8 no faster for sure."""
    def make(**facts: Any) -> Report:
        old = engines[0] | {"name": OLD, "unpruned": True, "top1_percent": 99.17, "weight_bytes": 123_405_787, "path": None,
                            "engine_bytes": 123_500_373, "deflate_bytes": 100_000_000, "speedup_vs_fp32": None}
        old["latency_ms"] = {"p50": 16.025, "p95": 17.0, "p99": 18.0, "mean": 16.0, "std": 0.5, "n": 400}
        gains = {FP32: (2.5, 2.4, 2.6), INT8: (1.1, 0.9, 1.3)}
        for engine in engines:
            engine["deflate_bytes"] = 30_000_000 if engine["name"] == FP32 else 8_000_000
            if engine["name"] in gains:
                value, low, high = gains[engine["name"]]
                engine |= {"speedup_vs_unpruned": {"value": value, "low": low, "high": high}, "unpruned_reference": OLD,
                           "top1_change_vs_unpruned": {"value": -0.56, "low": -1.11, "high": 0.0}}
        if facts.get("unstructured"):
            engines[0] |= {"bitmap_bytes": 12_215_000, "two_of_four_bytes": 20_000_000,
                           "sparse": {"layers": 9, "in_file": 7, "eligible": None, "chosen": None}}
        return joined(engines, pruning=FACTS | facts, unpruned=[old])

    return make


@pytest.fixture
def report(pruned: Callable[..., Report]) -> Report:
    """The made-up build, pruned by channels."""
    return pruned()


def test_the_figures_before_and_after_with_their_change(report: Report) -> None:
    rows = {row.what: row for row in pruned_words.change_rows(report)}
    assert rows["Parameters"][2:] == ("9.23 M", "2.77 M", "−70.0 %", "good")  # 2769334 / 9231114 = 0.3
    assert rows["MACs per image"][2:] == ("153 M", "46.0 M", "−70.0 %", "good")
    assert rows["Weight bytes"] == ("Weight bytes", "FP32 on ONNX Runtime", "123 MB", "37.0 MB", "−70.0 %", "good")
    assert rows["Deflated"][2:5] == ("100 MB", "30.0 MB", "−70.0 %")
    assert rows["p50 ms"][2:] == ("16.0", "6.41", "−60.0 %", "good")
    assert rows["Test top-1 %"][2:] == ("99.17", "98.61", "−0.56 points", "plain")
    assert rows["Val top-1 %"][2:5] == ("92.00", "91.50", "−0.50 points")


def test_an_engine_whose_interval_holds_1_is_called_no_difference(report: Report) -> None:
    fp32, int8 = pruned_words.engine_rows(report)
    assert fp32[:5] == (FP32, "2.50×", "2.40–2.60", "−0.56", "−1.11 to 0.00")
    assert (fp32.weights, fp32.tone, int8.tone) == ("37.0 MB (0.30×)", "good", "plain")
    assert pruned_words.summary(report) == (
        "Pruned (channels): 70.0 % fewer parameters (9.23 M to 2.77 M), 70.0 % fewer MACs. Against the unpruned FP32 engine: "
        "FP32 on ONNX Runtime 2.50× as fast (95 %: 2.40–2.60), top-1 −0.56 points.")
    assert report.pruning is not None
    later = report.model_copy(update={"pruning": report.pruning.model_copy(update={"epochs": 4})})
    assert ("Against the unpruned FP32 engine, after 4 more epochs of training, which the unpruned network did not have: "
            "FP32 on ONNX Runtime 2.50×") in pruned_words.summary(later)
    slow = pruned_words._told(report.engines[3])
    assert slow == "INT8 on ONNX Runtime no measurable difference (95 %: 0.90–1.30), top-1 −0.56 points"


def test_layers_show_widths_and_a_factorized_one_its_rank(report: Report) -> None:
    assert report.pruning is not None
    conv, linear = pruned_words.layer_rows(report.pruning)
    assert conv == ("features.<b>", "64 → 32", "1.73 k → 864", "100.0", "1.77 M → 885 k", 0.5)
    assert linear[:3] == ("classifier", "10, rank 4", "5.12 k → 2.09 k")


def test_a_sparse_network_says_what_its_zeros_are_worth(pruned: Callable[..., Report]) -> None:
    after = FACTS["before"] | {"zeros": 6_300_000}
    sparse = pruned(method="magnitude", unstructured=True, after=after, checks=[])
    assert "70.0 % of the weights are zero" in pruned_words.summary(sparse)
    assert "no engine is expected to be faster" in render_markdown(sparse)
    assert pruned_words.packed_rows(sparse) == [
        (FP32, "37.0 MB", "12.2 MB (0.33×)", "20.0 MB (0.54×)", "7 of 9 layers are 2:4; TensorRT does not tell")]
    assert "12.2 MB (0.33×)" in render_html(sparse) and "12.2 MB (0.33×)" in render_markdown(sparse)
    assert "Sparse tensor cores" in pruned_words.intro(Pruning.model_validate(FACTS | {"method": "sparse24", "unstructured": True}))


def test_counts_have_three_digits() -> None:
    assert [pruned_words.count(n) for n in (0, 999, 1000, 9_994, 99_949, 999_600, 1_239_000_000, None)] == [
        "0", "999", "1.00 k", "9.99 k", "99.9 k", "1.00 M", "1.24 G", "–"]


def test_the_json_comes_back_as_it_was(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report.to_json())
    assert load_report(tmp_path / "report.json") == report
    content = json.loads(report.to_json())
    assert content["schema_version"] == 1 and [e["name"] for e in content["unpruned"]] == [OLD]
    assert content["pruning"]["layers"][0]["histogram"]["before"] == BINS["before"]


def test_a_report_from_before_there_was_pruning_is_still_read(sample_report: Report, tmp_path: Path) -> None:
    content = json.loads(sample_report.to_json())
    del content["pruning"], content["unpruned"]
    for engine in content["engines"]:
        for key in ("deflate_bytes", "bitmap_bytes", "two_of_four_bytes", "unpruned", "speedup_vs_unpruned", "unpruned_reference",
                    "top1_change_vs_unpruned"):
            del engine[key]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert load_report(tmp_path / "report.json") == sample_report
    assert "What pruning changed" not in render_html(sample_report) + render_markdown(sample_report)


def test_the_reference_is_shown_and_no_limit_judges_it(report: Report) -> None:
    assert not [limit for limit in report.limits if "unpruned" in limit.engine]
    assert f"| `{OLD}` | 99.17" in render_markdown(report)
    assert "ONNX Runtime, unpruned" in render_html(report) and "· 13 engines" in render_html(report)
    console = Console(file=io.StringIO(), width=200)
    print_report(report, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "vs unpruned" in printed and "2.50×" in printed and "cpu_x86, unpruned" in printed
    assert "Pruned (channels): 70.0 % fewer parameters" in printed


def test_names_are_escaped_and_the_sheet_is_held_by_the_page(report: Report) -> None:
    page = render_html(report, None, b"\x89PNG")
    assert "features.<b>" not in page and "features.&lt;b&gt;" in page
    assert "data:image/png;base64,iVBORw==" in page
    assert "](pruned_gradcam.png)" in render_markdown(report)


def test_a_histogram_draws_each_bin_as_high_as_it_is() -> None:
    drawn = pruned_plot.histogram(Histogram(limit=0.25, **BINS), "a&b")
    heights = re.search(r'class="before" d="([^"]*)"', drawn)
    assert heights is not None
    levels = re.findall(r"V([\d.]+)H", heights[1])
    assert len(levels) == 64 and (levels[0], levels[32]) == ("88", "6")  # the axis; the largest count fills the frame
    assert float(levels[31]) == pytest.approx(88 - 82 * 5 / 9, abs=0.1)
    assert "a&amp;b: weights that are not zero, from −0.25 to 0.25: 14 before, 3 after" in drawn


def test_curves_are_drawn_where_there_is_something_to_see(report: Report) -> None:
    assert report.pruning is not None
    points = pruned_words.removed_points(report.pruning)
    assert points == [(0.0, 92.0, "unpruned"), (40.0, 91.75, "round 1"), (70.0, 91.5, "round 2")]
    assert pruned_plot.removed_curve(points, "parameters removed, %").count("<circle") == 3
    assert pruned_plot.removed_curve(points[:1], "x") == "" and pruned_plot.predicted_plot([]) == ""
    assert pruned_plot.predicted_plot([LatencyCheck(predicted_ms=1.0, measured_ms=1.0)]).count("<circle") == 1


@pytest.mark.parametrize("wrong", [{"zeros_after": 865}, {"histogram": {"limit": 1, "before": [1], "after": [1]}}, {"after": []}])
def test_facts_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    layers = [FACTS["layers"][0] | wrong]
    with pytest.raises(ValidationError):
        Pruning.model_validate(FACTS | {"layers": layers})

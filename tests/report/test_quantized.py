"""What the report says of quantization: made-up facts, every number known beforehand."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.quantized import Quantization
from toolchain.report.quantized_words import (
    gpfq_rows,
    intro,
    mixed_rows,
    mixed_told,
    repair_rows,
    storage_rows,
    summary,
)
from toolchain.report.schema import Report
from toolchain.report.table import print_report

LAYER = {"name": "features.0<b>", "parameters": 1000, "bits": 3, "levels": 7, "coding": "3 bits each", "relative_error": 0.0512,
         "nearest_relative_error": 0.1234, "packed_bytes": 415}
FACTS: dict[str, Any] = {
    "method": "gpfq", "calibrator": "entropy",
    "storage": [
        {"name": "fp32.onnxruntime.cpu_x86", "codes_bytes": 0, "scales_bytes": 0, "zero_points_bytes": 0, "floats_bytes": 4080,
         "other_bytes": 8, "coded_weights": 0, "payload_bytes": 4088, "packed_bytes": None},
        {"name": "int4.onnxruntime.cpu_x86", "codes_bytes": 500, "scales_bytes": 125, "zero_points_bytes": 0, "floats_bytes": 80,
         "other_bytes": 8, "coded_weights": 1000, "payload_bytes": 713, "packed_bytes": 495}],
    "repairs": [
        {"precision": "int8", "method": "bias_correction", "seconds": 2.5, "top1_before": 97.0, "top1_after": 97.75, "kept": True, "did": "9 biases"},
        {"precision": "int8", "method": "adaround", "seconds": 70.0, "top1_before": 97.75, "top1_after": 97.5, "kept": False, "did": "9 layers"},
        {"precision": "int4", "method": "adaround", "seconds": 1.0, "top1_before": None, "top1_after": None, "kept": True, "did": "9 layers"}],
    "gpfq": {"bits": 3, "alphabet": "deployable", "precisions": ["int4", "int8_weight_only", "int8"], "layers": [LAYER],
             "parameters": 1000, "float_bytes": 4000, "packed_bytes": 415},
    "mixed": [{"engine": "mixed.onnxruntime.cpu_x86", "policy": "budget", "joins": "quantized", "layers": [
        {"name": "features.0", "precision": "int8_weight_only", "loss_nats": 0.0125, "bytes": 564, "parameters": 1000, "fixed": False},
        {"name": "classifier", "precision": "fp16", "loss_nats": None, "bytes": 80, "parameters": 40, "fixed": True}],
        "predicted": {"loss_nats": 0.0125, "weight_bytes": 700}, "measured": {"weight_bytes": 700, "fp32_weight_bytes": 4200, "kl_nats": 0.014}}],
}


@pytest.fixture
def report(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> Report:
    return joined(engines, quantization=FACTS)


def test_each_engine_has_its_true_storage(report: Report) -> None:
    rows = storage_rows(report)
    assert rows[0][:8] == ("fp32.onnxruntime.cpu_x86", "–", "–", "–", "4.1 kB", "4.1 kB", "–", "–")
    assert rows[1][:8] == ("int4.onnxruntime.cpu_x86", "500 B", "125 B", "–", "80 B", "713 B", "5.00", "495 B")  # 8 * 625 / 1000
    assert rows[1][8] != "–", "beside the bytes of the engine's own file"


def test_a_repair_says_what_it_gained_or_that_nothing_was_judged(report: Report) -> None:
    assert report.quantization is not None
    kept, lost, unjudged = repair_rows(report.quantization)
    assert (kept.before, kept.after, kept.gain, kept.kept, kept.tone) == ("97.00", "97.75", "+0.75", "yes", "good")
    assert (lost.gain, lost.kept, lost.seconds, lost.tone) == ("−0.25", "no", "1 min 10 s", "bad")
    assert (unjudged.before, unjudged.gain, unjudged.tone, unjudged.precision) == ("–", "–", "plain", "INT4")


def test_gpfq_shows_the_error_of_each_layer_beside_nearest_rounding(report: Report) -> None:
    assert report.quantization is not None
    assert gpfq_rows(report.quantization) == [("features.0<b>", "1,000", "5.12", "12.34", "415 B", "3 bits each")]
    told = intro(report.quantization)
    assert "3 bits, deployable alphabet: 1,000 weights in 415 B, of 4.0 kB as floats" in told
    assert "INT4 and INT8 weight-only and INT8 engines" in told


def test_a_precision_for_each_layer_and_what_came_of_it(report: Report) -> None:
    assert report.quantization is not None
    mixed, = report.quantization.mixed
    assert mixed_rows(mixed) == [("features.0", "INT8 weight-only", "0.0125", "564 B", "1,000", "budget"),
                                 ("classifier", "FP16", "–", "80 B", "40", "the recipe")]
    assert mixed_told(mixed) == ("mixed.onnxruntime.cpu_x86, policy budget: KL to the float network 0.0125 nats predicted, "
                                 "0.014 nats measured; 700 B of 4.2 kB of FP32's weights; joins quantized.")


CHECK = {"assignment": {"features.0": "int8"}, "loss_nats": 0.01, "weight_bytes": 700}


@pytest.mark.parametrize(("budget", "measured", "checks", "told"), [
    ({"kind": "latency", "asked": 0.9, "limit": 0.1149}, {"latency_ms": 0.0979, "fp32_latency_ms": 0.1277, "share": 0.8211}, [
        {**CHECK, "joins": "quantized", "kl_nats": 0.0144, "share": 0.9312, "accepted": False},
        {**CHECK, "joins": "float", "kl_nats": 0.0123, "share": 0.8211, "accepted": True}],
     ("asked for at most 0.9 of FP32's p50, measured 0.82 (0.098 of 0.128 ms) when it was chosen",
      "joins float, chosen by auto: 0.0123 nats, 0.82 of FP32's p50; quantized: 0.0144 nats, 0.93 of FP32's p50.")),
    ({"kind": "bytes", "asked": 0.2, "limit": 840}, {}, [{**CHECK, "joins": "float", "kl_nats": 0.0123, "accepted": True}],
     ("asked for at most 840 B of weights, 0.2 of FP32's;", "joins float.")),
    ({"kind": "bytes", "asked": 5000, "limit": 5000}, {}, [], ("asked for at most 5.0 kB of weights;", "joins float."))])
def test_a_budget_says_what_was_asked_what_was_measured_and_which_joins_were_chosen(
        joined: Callable[..., Report], engines: list[dict[str, Any]], budget: dict[str, Any], measured: dict[str, float],
        checks: list[dict[str, Any]], told: tuple[str, ...]) -> None:
    mixed = FACTS["mixed"][0] | {"joins": "float", "budget": budget, "checks": checks}
    mixed["measured"] = {**mixed["measured"], **measured}
    report = joined(engines, quantization={**FACTS, "mixed": [mixed]})
    assert report.quantization is not None
    said = mixed_told(report.quantization.mixed[0])
    assert all(part in said for part in told) and said.endswith(told[-1])
    assert said in render_markdown(report).replace("\\", "") and said.replace("'", "&#39;") in render_html(report)
    assert json.loads(report.to_json())["quantization"]["mixed"][0]["budget"] == budget


def test_where_the_fp32_engine_holds_the_codes_the_float_network_is_told_beside_it(
        joined: Callable[..., Report], engines: list[dict[str, Any]], report: Report) -> None:
    judged = {"val_top1_percent": 71.2, "float_val_top1_percent": 79.9, "val_images": 2000}
    cost = "Val top-1 71.20 % with GPFQ's 3-bit weights, 79.90 % with those of the float network (−8.70 points on 2,000 images)."
    fits = joined(engines, quantization={**FACTS, "gpfq": FACTS["gpfq"] | judged})
    assert summary(fits) == cost
    alone = joined(engines[:2], quantization={**FACTS, "gpfq": FACTS["gpfq"] | judged | {"precisions": ["fp32"]}})
    assert summary(alone) == (
        "fp32.onnxruntime.cpu_x86 is the GPFQ network, as no integer type holds its codes, and the reference of every accuracy "
        f"here: none shows what GPFQ cost. {cost} The FP16 engines are the float network.")
    for text in (render_markdown(alone).replace("\\", ""), render_html(alone).replace("&#39;", "'")):
        assert text.count(cost) == 2, "below the headline, and in the section on quantization"
    console = Console(width=400, file=io.StringIO())
    print_report(alone, console)
    assert summary(alone) in console.file.getvalue()  # type: ignore[attr-defined]
    assert summary(report) == "", "of an earlier version"


def test_both_pages_show_it_and_escape_names(report: Report, sample_report: Report) -> None:
    text, page = render_markdown(report), render_html(report)
    for heading in ("True storage", "Accuracy repair", "GPFQ, layer by layer", "Mixed precision"):
        assert f"### {heading}" in text and f"<h3>{heading}</h3>" in page
    assert "features.0&lt;b&gt;" in page and "features.0<b>" not in page
    assert "## Quantization" not in render_markdown(sample_report) and "<h2>Quantization</h2>" not in render_html(sample_report)
    assert Report.model_validate_json(report.to_json()) == report


def test_a_share_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError):
        Quantization.model_validate({**FACTS, "repairs": [{**FACTS["repairs"][0], "top1_after": 120.0}]})

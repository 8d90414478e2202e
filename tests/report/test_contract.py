"""What a report says of the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolchain.report.contract import percent, realised, rows
from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.schema import EngineResult, Report


def layer(name: str, verdict: str = "broken", why: str = "runs in <float>", realised: str | None = "fp32") -> dict[str, Any]:
    return {"name": name, "op": "Conv", "asked": "int8", "realised": realised, "macs": 5, "verdict": verdict, "why": why}


def contract(kept: float, *layers: dict[str, Any], hidden: float = 0.0, numbers: str = "kept") -> dict[str, Any]:
    return {"share": {"int8": kept}, "kept_share": kept, "undecidable_share": hidden, "layers": list(layers),
            "numbers": {"to_file": 0.5, "to_source": 0.5, "verdict": numbers, "why": "something else" * (numbers != "kept")}}


@pytest.fixture
def report_of(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> Callable[..., Report]:
    """The made-up build whose INT8 engine on ONNX Runtime has this contract."""
    return lambda found: joined([e | ({"contract": found} if e["name"].startswith("int8.onnx") else {}) for e in engines])


def int8(report: Report) -> EngineResult:
    return next(e for e in report.engines if e.name.startswith("int8.onnx"))


def test_shares_are_never_rounded_up_to_a_whole():
    assert [percent(s) for s in (1, 0.98123, 0.99999, 0.00001, 0)] == ["100 %", "98.1 %", "> 99.9 %", "< 0.1 %", "0 %"]


@pytest.mark.parametrize(("found", "told"), [
    (contract(1.0), ("100 %", "")), (contract(0.9, layer("a")), ("90.0 %", "1 broken")),
    (contract(0.5, layer("a", "undecidable", realised=None), hidden=0.5), ("50.0 %", "50.0 % hidden")),
    (contract(0.0, hidden=1.0), ("hidden", "")), (contract(1.0, numbers="broken"), ("wrong numbers", ""))])
def test_an_engines_share_in_a_few_words(report_of: Callable[..., Report], found: dict[str, Any], told: tuple[str, str]):
    assert realised(int8(report_of(found))) == told


def test_layers_with_one_reason_share_a_row_and_broken_ones_come_first(report_of: Callable[..., Report]):
    report = report_of(contract(0.5, layer("a", "undecidable", "hidden", None), layer("b"), layer("c")))
    assert [(r.layer, r.realised, r.verdict) for r in rows(report.engines)] == [
        ("b and 1 more", "fp32", "broken"), ("a", "cannot be told", "undecidable")]


def test_a_form_of_storage_is_told_with_what_it_is_computed_in(report_of: Callable[..., Report]):
    layers = [layer("a", realised="int8_weight_only") | {"arithmetic": "fp32"}, layer("b") | {"arithmetic": "fp32"}]
    assert [r.realised for r in rows(report_of(contract(0.5, *layers)).engines)] == ["int8 weights, fp32 arithmetic", "fp32"]


def test_both_pages_name_the_layers_and_escape_the_reasons(report_of: Callable[..., Report]):
    report = report_of(contract(0.5, layer("conv_7")))
    text, page = render_markdown(report), render_html(report)
    assert "## Asked and realised" in text and "conv\\_7" in text and "runs in &lt;float&gt;" in text
    assert "Asked and realised" in page and "conv_7" in page and "runs in &lt;float&gt;" in page


def test_long_lists_are_folded(report_of: Callable[..., Report]):
    report = report_of(contract(0.5, *(layer(f"conv{i}", why=f"reason {i}") for i in range(30))))
    assert "<summary>18 more</summary>" in render_markdown(report) and "<summary>18 more</summary>" in render_html(report)


def test_a_build_that_keeps_its_contract_has_no_such_section(report_of: Callable[..., Report]):
    report = report_of(contract(1.0))
    assert "Asked and realised" not in render_markdown(report) + render_html(report)


def test_an_int8_engine_that_is_no_faster_is_said_to_be_so(joined: Callable[..., Report], engines: list[dict[str, Any]]):
    slow = {"value": 0.93, "low": 0.92, "high": 0.94}
    report = joined([e | ({"speedup_vs_fp32": slow} if e["name"].startswith("int8.onnx") else {}) for e in engines])
    assert "is not faster than fp32.onnxruntime.cpu\\_x86: 0.93× (95 %: 0.92–0.94)" in render_markdown(report)

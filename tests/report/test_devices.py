"""The rows of engines on devices, on every page."""

from collections.abc import Callable
from typing import Any

import pytest

from toolchain.report.devices import DeviceResult, across, rows, told
from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.schema import Report
from toolchain.report.words import milliseconds, percent

LATENCY = {"p50": 1.25, "p95": 1.5, "p99": 2.0, "mean": 1.3, "std": 0.1, "n": 400}
ORIN = {"name": "orin", "machine": "Orin <b>", "batch": 1, "threads": 12, "left_out": {"int8.openvino.cpu_x86": "no openvino"},
        "environment": {"jetpack": "6", "runtimes": {"tensorrt": "10.3.0"}, "python": "3.10.12"}, "engines": [
    {"name": "fp32", "built": True, "engine_bytes": 2_000_000, "golden_held": True, "golden_distance": 1e-4, "top1_percent": 91.5,
     "top1_interval": [90.1, 92.7],
     "latency_ms": LATENCY, "validity": {"verdict": "inconclusive", "causes": ["hot"]}},
    {"name": "int8", "built": True, "golden_held": False, "latency_ms": {**LATENCY, "p50": 0.5}, "speedup_vs_fp32": {"value": 2.5, "low": 2.4, "high": 2.6},
     "validity": {"verdict": "inconclusive", "causes": ["hot"]}},
    {"name": "int4", "built": False, "reason": "no kernel"}]}
GONE = {"name": "nano", "reason": "does not answer"}


@pytest.fixture
def report(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> Report:
    return joined(engines).model_copy(update={"devices": [DeviceResult.model_validate(one) for one in (ORIN, GONE)]})


def test_each_engine_on_each_device_has_a_row_and_so_has_a_device_that_failed(report: Report) -> None:
    assert rows(report) == [
        ["orin", "fp32", "91.50 (90.1–92.7)", "1.25 ± 0.10 ?", "–", "2.0 MB", "as here (1.0e-04)"],
        ["orin", "int8", "–", "0.500 ± 0.100 ?", "2.50× (2.40–2.60)", "–", "others"],
        ["orin", "int4", "not built", "–", "–", "–", "–"],
        ["nano", "–", "no result", "–", "–", "–", "–"]]


def test_it_is_said_where_and_why_not(report: Report) -> None:
    assert told(report) == [
        "orin: Orin <b>, batch 1, 12 CPU threads, JetPack 6, tensorrt 10.3.0, Python 3.10.12.",
        "orin: int8.openvino.cpu_x86 is left out: no openvino.",
        "orin: int4 could not be built: no kernel.",
        "orin: the latency of fp32, int8 is inconclusive: hot.",
        "nano: does not answer."]


def test_figures_of_an_earlier_build_say_so(report: Report) -> None:
    orin = report.devices[0].model_copy(update={"reason": "does not answer"})
    again = report.model_copy(update={"devices": [orin]})
    assert told(again)[0] == "orin: does not answer. Its figures are those of an earlier build of the same engines."
    assert rows(again) == rows(report)[:-1]


def test_the_fastest_engine_of_each_precision_stands_side_by_side_for_all_machines(report: Report) -> None:
    titles, cells = across(report)
    assert titles == ["Fastest engine", "this machine", "orin", "nano"]
    found = dict((name, rest) for name, *rest in cells)
    here = min((e for e in report.engines if e.precision == "int8" and e.latency_ms), key=lambda e: e.latency_ms.p50)
    assert here.latency_ms and found["INT8"][0].startswith(f"{milliseconds(here.latency_ms.p50)} ms, {percent(here.top1_percent)} %, ")
    assert found["FP32"][1:] == ["1.25 ms ?, 91.50 %", "–"] and found["INT4"][1:] == ["–", "–"]


def test_pages_show_them_and_obey_no_name(report: Report) -> None:
    html, markdown = render_html(report), render_markdown(report)
    assert "On devices" in html and "Orin &lt;b&gt;" in html and "<b>" not in html.partition("On devices")[2].partition("</section>")[0]
    assert "Side by side" in html and "### Side by side" in markdown
    assert "## On devices" in markdown and "Orin &lt;b&gt;" in markdown
    assert "On devices" not in render_html(report.model_copy(update={"devices": []}))
    assert Report.model_validate_json(report.to_json()) == report

"""From where to where a latency counts, on every page."""

from collections.abc import Callable
from typing import Any

import pytest

from toolchain.report.boundaries import conditions, rows, titles
from toolchain.report.devices import DeviceResult
from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.part import Latency
from toolchain.report.schema import Report


def ms(p50: float) -> dict[str, Any]:
    return {"p50": p50, "p95": 1.5 * p50, "p99": 2 * p50, "mean": p50, "std": 0.1, "n": 200}


@pytest.fixture
def report(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> Report:
    timed = next(e for e in engines if e["measured"])
    timed |= {"latency_ms": ms(1.0), "with_transfers_ms": ms(1.25), "end_to_end_ms": ms(1.5),
              "energy": {"millijoules": 12.34, "counter": "RAPL package-0"},
              "machine_settings": {"governor": "performance", "mhz": 2400, "celsius": 61.5, "fixed_clocks": False}}
    orin = {"name": "orin", "machine": "Orin", "batch": 1, "threads": 12, "machine_settings": {"power_mode": "<MAXN>", "gpu_mhz": 1300},
            "engines": [{"name": "int8", "built": True, "latency_ms": ms(0.5), "with_transfers_ms": ms(0.75)}]}
    return joined(engines).model_copy(update={"devices": [DeviceResult.model_validate(orin)]})


def test_each_timed_engine_says_what_is_device_only_with_transfers_and_end_to_end(report: Report) -> None:
    found = dict((name, rest) for name, *rest in rows(report))
    assert titles(report)[-1] == "mJ an image"
    assert found["fp32.onnxruntime.cpu_x86"] == ["1.00", "1.25", "1.50", "12.3"]
    assert found["orin: int8"] == ["0.500", "0.750", "–", "–"]


def test_each_machine_says_how_it_stood_and_who_counted_energy(report: Report) -> None:
    assert conditions(report) == [
        "This machine while engines were timed: governor performance, free clocks, CPU at 2400 MHz, 61.5 °C.",
        "orin while engines were timed: power mode <MAXN>, GPU at 1300 MHz.",
        "Energy, idle power included, was counted by RAPL package-0."]


def test_a_machine_without_a_counter_says_so_and_has_no_column(sample_report: Report) -> None:
    assert "mJ an image" not in titles(sample_report)
    assert conditions(sample_report)[-1] == "Energy was not measured: no counter that may be read."


def test_pages_show_it(report: Report) -> None:
    for page in (render_html(report), render_markdown(report)):
        assert "Latency, from where to where" in page and "&lt;MAXN&gt;" in page and "<MAXN>" not in page


def test_transfers_below_device_only_are_doubted_with_their_cause(report: Report) -> None:
    orin = report.devices[0].engines[0]
    slow = orin.model_copy(update={"latency_ms": Latency.model_validate(ms(0.85))})  # 0.75 is 0.88 of it
    there = report.devices[0].model_copy(update={"engines": [slow]})
    told = report.model_copy(update={"devices": [there]})
    assert dict((name, rest) for name, *rest in rows(told))["orin: int8"] == ["0.850 ?", "0.750 ?", "–", "–"]
    assert "which cannot be, for orin: int8 (0.750 against 0.850 ms): device only is timed in rounds" in conditions(told)[2]
    assert not any("cannot be" in sentence for sentence in conditions(report))

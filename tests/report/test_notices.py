"""What stands before the figures: a reference that guesses, a repair that tried nothing, a file that was changed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from toolchain.report.html import render_html
from toolchain.report.markdown import escape, render_markdown
from toolchain.report.notices import at_chance, auto_told, notices
from toolchain.report.quantized import Judged
from toolchain.report.schema import Report
from toolchain.report.table import print_report

PREPROCESS = {"image_size": 32, "resize": None, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@pytest.fixture
def guessing(sample_report: Report) -> Callable[..., Report]:
    """guessing(low, high, **data) -> the made-up build of an own ONNX file, its FP32 engines with this interval."""

    def make(low: float, high: float, **data: Any) -> Report:
        engines = [e.model_copy(update={"top1_percent": (low + high) / 2, "top1_interval": (low, high)})
                   if e.precision == "fp32" and e.measured else e for e in sample_report.engines]
        return sample_report.model_copy(update={
            "engines": engines, "recipe": {**sample_report.recipe, "model": {"onnx": "mine.onnx"}, "data": data},
            "data": sample_report.data.model_copy(update={"preprocess": PREPROCESS})})

    return make


def test_a_reference_whose_interval_holds_chance_is_told_once_with_the_normalisation_used(guessing: Callable[..., Report]):
    [told] = at_chance(guessing(8, 13, mean=None, std=None))
    assert told.startswith("fp32.onnxruntime.cpu_x86, the float reference itself, is at chance: top-1 10.50 % (95 %: 8.0–13.0)")
    assert "among 10 classes gives 10.00 %" in told
    assert "(data.mean 0.5, 0.5, 0.5 and data.std 0.25, 0.25, 0.25; both by default, as the recipe sets none)" in told
    assert "order (here RGB)" in told and "(here 0, 1, 2, …)" in told


@pytest.mark.parametrize(("data", "words"), [
    ({"mean": [0.5] * 3, "std": None}, "; data.std by default"), ({"mean": [0.5] * 3, "std": [0.25] * 3}, ", as the recipe says")])
def test_it_says_which_of_mean_and_std_were_defaults(guessing: Callable[..., Report], data: dict[str, Any], words: str):
    assert words in at_chance(guessing(8, 13, **data))[0]


def test_a_reference_above_or_below_chance_needs_no_word(guessing: Callable[..., Report], sample_report: Report):
    assert at_chance(guessing(10.1, 13)) == at_chance(guessing(1, 9.9)) == notices(sample_report) == []


def test_a_network_trained_here_is_told_of_its_training_instead(guessing: Callable[..., Report]):
    report = guessing(8, 13)
    told = at_chance(report.model_copy(update={"recipe": {"model": {"arch": "vgg11_bn"}}}))[0]
    assert "too few epochs" in told and "data.mean" not in told


@pytest.mark.parametrize(("after", "tried", "field", "told"), [
    (97.8, 0, None, "INT8: repair auto tried nothing: the file without repair loses 0.20 points of top-1 on val, and 0.5 may "
                    "be lost (the default, as limits.int8.top1_drop is not set)."),
    (97.8, 1, "limits.top1_drop", "INT8: repair auto stopped within its limit: the mended file loses 0.20 points of top-1 on "
                                  "val, and 0.5 may be lost (limits.top1_drop)."),
    (97, 4, "limits.int8.top1_drop", "INT8: repair auto tried every method, and it is NOT enough: the best file loses 1.00 "
                                     "points of top-1 on val, and 0.5 may be lost (limits.int8.top1_drop).")])
def test_repair_auto_says_how_it_ended_and_by_which_limit(after: float, tried: int, field: str | None, told: str):
    assert auto_told(Judged(precision="int8", limit=0.5, limit_field=field, float_top1=98, before=97, after=after, tried=tried)) == told


def test_every_page_and_the_console_show_every_notice(guessing: Callable[..., Report]):
    report = guessing(8, 13).model_copy(update={"own_file": ["mine.onnx: the final Softmax is cut off"]})
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=5000))
    assert len(notices(report)) == 2
    for told in notices(report):
        assert escape(told) in render_markdown(report) and told in render_html(report)
        assert told in screen.getvalue()

"""Figures as words."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.recipe.schema import Recipe
from toolchain.report import how, words
from toolchain.report.make import make_report
from toolchain.report.part import Latency
from toolchain.report.schema import Report, Transfer


def latency(p50: float, std: float) -> Latency:
    return Latency(p50=p50, p95=p50, p99=p50, mean=p50, std=std, n=10)


def rebuilt(report: Report, engines: list[dict[str, Any]], limits: dict[str, Any] | None = None) -> Report:
    recipe = Recipe.model_validate({"name": "r", "model": {"arch": "vgg11"}, "limits": limits or {}})
    content = report.model_dump()
    return make_report(recipe, content["environment"], content["data"], content["stages"], engines)


@pytest.mark.parametrize(("n_bytes", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_296_904, "9.3 MB"), (37_021_736, "37.0 MB"), (515_400_000, "515 MB"),
    (999_700_000, "1.00 GB"), (2_140_000_000, "2.14 GB"), (24_600_000_000, "24.6 GB"), (None, "–")])
def test_sizes_are_decimal(n_bytes: int | None, text: str):
    assert words.size(n_bytes) == text


@pytest.mark.parametrize(("value", "text"), [(0.9687, "0.969"), (6.414, "6.41"), (12.34, "12.3"), (105.4, "105"), (None, "–")])
def test_milliseconds_have_three_digits(value: float | None, text: str):
    assert words.milliseconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.44, "0.4 s"), (12.4, "12 s"), (61.8, "1 min 02 s"), (3720, "1 h 02 min"),
                                             (59.7, "1 min 00 s"), (9.96, "10 s")])
def test_seconds_grow_into_minutes_and_hours(value: float, text: str):
    assert words.seconds(value) == text


def test_the_spread_has_as_many_decimals_as_its_p50():
    assert words.spread(latency(6.41, 0.449)) == "± 0.45"
    assert words.spread(latency(0.969, 0.0678)) == "± 0.068"
    assert words.spread(None) == ""


def test_points_carry_a_true_minus_and_zero_has_no_sign():
    assert [words.signed(v) for v in (-0.28, 0.11, 0.001, -0.001)] == ["−0.28", "+0.11", "0.00", "0.00"]


def test_the_headline_names_the_fastest_engine_that_breaks_no_limit(sample_report: Report):
    assert words.headline(sample_report) == (
        "INT8 on ONNX Runtime is 6.62× as fast as FP32 with 25 % of its weight bytes: "
        "top-1 98.33 % (95 %: 96.4–99.2) against 98.61 % (−0.28 points, 95 %: −1.11 to +0.28).")  # -0.28 - 0.83, -0.28 + 0.56


def test_an_engine_that_breaks_a_limit_is_not_the_best_one(sample_report: Report, engines: list[dict[str, Any]]):
    report = rebuilt(sample_report, engines, {"int8": {"top1": 98.2}})
    assert words.best_engine(report) is not None
    broken = rebuilt(sample_report, engines, {"int8": {"top1": 99.9}})
    best = words.best_engine(broken)
    assert best is not None and best.name == "bf16.openvino.cpu_x86"  # 1.81, the fastest that is not INT8


def test_a_slower_engine_is_called_slower(sample_report: Report, engines: list[dict[str, Any]]):
    report = rebuilt(sample_report, [engines[0], engines[4]])  # FP32 and INT4 on ONNX Runtime, 0.808 times its speed
    assert "is slower than FP32 (0.81× its speed)" in words.headline(report)
    assert words.tiles(report)[0].tone == "bad"


def test_an_interval_around_one_shows_no_difference(sample_report: Report, engines: list[dict[str, Any]]):
    int8 = engines[3] | {"speedup_vs_fp32": {"value": 1.02, "low": 0.98, "high": 1.06}}
    report = rebuilt(sample_report, [engines[0], int8])
    assert "shows no difference in speed from FP32 (95 %: 0.98–1.06×)" in words.headline(report)
    assert words.tiles(report)[0].tone == "plain"


@pytest.mark.parametrize("whose", [0, 3])  # FP32's latency, or INT8's
@pytest.mark.parametrize(("value", "low", "high", "told"), [
    (0.96, 0.94, 0.98, "seems slower than FP32 (0.96× its speed; inconclusive, "),
    (1.5, 1.4, 1.6, "seems 1.50× as fast as FP32 (inconclusive, "),
    (0.96, 0.9, 1.1, "shows no difference in speed from FP32 (inconclusive, ")])
def test_a_headline_of_inconclusive_latencies_says_so_itself(
        sample_report: Report, engines: list[dict[str, Any]], whose: int, value: float, low: float, high: float, told: str):
    engines[whose] |= {"validity": {"verdict": "inconclusive", "causes": ["noise"], "attempts": 2}}
    engines[3] |= {"speedup_vs_fp32": {"value": value, "low": low, "high": high}, "latency_reference": engines[0]["name"]}
    report = rebuilt(sample_report, [engines[0], engines[3]])
    assert told in words.headline(report)
    assert (words.tiles(report)[0].tone, "inconclusive" in words.tiles(report)[0].note) == ("plain", True)


def test_a_build_without_measurements_says_so(sample_report: Report, engines: list[dict[str, Any]]):
    report = rebuilt(sample_report, engines[8:])
    assert words.headline(report).startswith("5 engines built; none below FP32 could be timed")
    assert [tile.label for tile in words.tiles(report)] == ["Limits"]


@pytest.mark.parametrize(("top1", "told"), [(98.33, "(−0.28 points, inside FP32's 95 % interval)."), (90.0, "(−8.61 points).")])
def test_without_a_paired_interval_the_drop_is_held_against_fp32s_own(
        sample_report: Report, engines: list[dict[str, Any]], top1: float, told: str):
    report = rebuilt(sample_report, [engines[0], engines[3] | {"top1_percent": top1, "top1_change_vs_fp32": None}])
    assert words.headline(report).endswith(told)


def test_copies_to_a_gpu_are_told_apart_from_the_latency():
    assert words.copies(Transfer(to_device=0.031, from_device=0.012)) == "+ 0.043 copies"
    assert words.copies(None) == ""


def test_stages_of_single_engines_are_one_row(sample_report: Report):
    stages = [("train", True, 60.0), ("engine_fp32.onnxruntime.cpu_x86", True, 1.5), ("engine_int8.tensorrt_rtx.sm86", False, 2.5),
              ("export_qat", False, None)]
    listed = [{"name": n, "key": 64 * "a", "cached": c, "seconds": s} for n, c, s in stages]
    report = Report.model_validate(sample_report.model_dump() | {"stages": listed})
    assert words.stage_rows(report) == [("train", 60.0, "cached", 12 * "a"), ("engine × 2", 4.0, "1 cached", ""),
                                        ("export_qat", None, "", 12 * "a")]


def test_a_headline_has_no_interval_where_none_was_measured(sample_report: Report, engines: list[dict[str, Any]]):
    report = rebuilt(sample_report, [engines[0], engines[3] | {"top1_interval": None}])
    assert "top-1 98.33 % against 98.61 % (" in words.headline(report)


def test_it_is_told_where_every_latency_sample_lies(sample_report: Report):
    key = next(stage.key for stage in sample_report.stages if stage.name == "measure")
    assert f"Every sample lies in latency.npz of stages/measure-{key[:16]}." in " ".join(how.measured(sample_report))
    untimed = sample_report.model_copy(update={"engines": [e for e in sample_report.engines if not e.measured]})
    assert "latency.npz" not in " ".join(how.measured(untimed))


def test_the_way_of_measuring_is_told_from_the_recipe(sample_report: Report):
    told = " ".join(how.measured(sample_report))
    assert "all 360 test images" in told and "20 rounds" in told and "400 timed runs of each engine" in told
    assert "those of a burst's first 10 ms (2 to 20 runs) do not count; 2 CPU threads" in told

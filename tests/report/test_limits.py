"""Limits worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.recipe.schema import PRECISIONS, Limits
from toolchain.report.limits import RULES, asks, broken, check_limits, describe, found_words, matrix
from toolchain.report.schema import LimitResult


def engine(name: str, top1: float | None = 98.0, weights: int = 400, **more: Any) -> dict[str, Any]:
    precision, runtime, target = name.split(".")
    facts = {"name": name, "precision": precision, "runtime": runtime, "target": target, "weight_bytes": weights,
             "engine_bytes": weights + 10, "measured": top1 is not None, "reason": None if top1 is not None else "no GPU",
             "top1_percent": top1}
    return facts | more


def speedup(value: float) -> dict[str, Any]:
    return {"speedup_vs_fp32": {"value": value, "low": value, "high": value}}


def verdicts(limits: dict[str, Any], *engines: dict[str, Any]) -> dict[tuple[str, str], bool | None]:
    return {(r.engine, r.limit): r.held for r in check_limits(Limits.model_validate(limits), engines)}


FP32 = engine("fp32.onnxruntime.cpu_x86", 99.0, 1000)


def test_every_limit_a_recipe_can_write_has_a_rule():
    flat = set(Limits.model_fields) - set(PRECISIONS)
    assert set(RULES) == flat


def test_flat_limits_judge_every_engine_except_fp32():
    found = verdicts({"top1": 98.5}, FP32, engine("fp16.onnxruntime.cpu_x86", 98.9), engine("int8.onnxruntime.cpu_x86", 98.0))
    assert found == {("fp16.onnxruntime.cpu_x86", "top1"): True, ("int8.onnxruntime.cpu_x86", "top1"): False}


def test_fp32_is_judged_by_its_own_section_only():
    assert verdicts({"top1": 50, "fp32": {"top1": 99.5}}, FP32) == {("fp32.onnxruntime.cpu_x86", "top1"): False}


def test_a_precisions_own_section_overrides_field_by_field():
    limits = {"top1_drop": 0.5, "top1": 97.0, "int4": {"top1_drop": 1.5}}
    found = verdicts(limits, FP32, engine("int4.onnxruntime.cpu_x86", 98.0), engine("int8.onnxruntime.cpu_x86", 98.0))
    assert found == {("int8.onnxruntime.cpu_x86", "top1_drop"): False,  # 99 - 98 = 1 > 0.5
                     ("int4.onnxruntime.cpu_x86", "top1_drop"): True,   # 1 <= 1.5
                     ("int8.onnxruntime.cpu_x86", "top1"): True, ("int4.onnxruntime.cpu_x86", "top1"): True}


def test_null_in_the_own_section_lifts_a_flat_limit():
    assert verdicts({"top1": 98.5, "int4": {"top1": None}}, FP32, engine("int4.onnxruntime.cpu_x86", 10.0)) == {}


def test_top1_drop_is_taken_from_the_fp32_engine_of_the_same_runtime():
    other = engine("fp32.openvino.cpu_x86", 98.2, 1000)
    found = verdicts({"top1_drop": 0.5}, FP32, other, engine("int8.openvino.cpu_x86", 98.0))
    assert found["int8.openvino.cpu_x86", "top1_drop"] is True  # 98.2 - 98.0, not 99.0 - 98.0


def test_without_fp32_of_the_same_runtime_the_first_measured_one_is_the_reference():
    found = verdicts({"top1_drop": 0.5}, engine("fp32.tensorrt_rtx.sm86", None, 1000), FP32,
                     engine("int8.openvino.cpu_x86", 98.0))
    assert found["int8.openvino.cpu_x86", "top1_drop"] is False  # 99 - 98


def test_a_drop_of_exactly_what_is_allowed_holds_in_spite_of_binary_fractions():
    assert 98.4 - 98.1 > 0.3
    found = verdicts({"top1_drop": 0.3}, engine("fp32.onnxruntime.cpu_x86", 98.4, 1000), engine("int8.onnxruntime.cpu_x86", 98.1))
    assert found["int8.onnxruntime.cpu_x86", "top1_drop"] is True


def test_the_reference_that_the_measurement_names_comes_first():
    other = engine("fp32.openvino.cpu_x86", 98.2, 1000)
    int8 = engine("int8.openvino.cpu_x86", 98.0, accuracy_reference=FP32["name"])
    assert verdicts({"top1_drop": 0.5}, FP32, other, int8)[int8["name"], "top1_drop"] is False  # 99 - 98


def test_weight_bytes_is_a_share_of_fp32_and_engine_bytes_are_bytes():
    int8 = engine("int8.onnxruntime.cpu_x86", weights=270)  # 270 / 1000, engine 280
    assert verdicts({"weight_bytes": 0.27, "engine_bytes": 279}, FP32, int8) == {
        (int8["name"], "weight_bytes"): True, (int8["name"], "engine_bytes"): False}


def test_sizes_are_judged_on_an_engine_that_could_not_be_measured_and_the_rest_is_not_failed():
    rtx = [engine("fp32.tensorrt_rtx.sm86", None, 1000), engine("int8.tensorrt_rtx.sm86", None, 300)]
    results = check_limits(Limits.model_validate({"weight_bytes": 0.27, "speedup": 2}), rtx)
    assert [(r.limit, r.held, r.reason) for r in results] == [("speedup", None, "no GPU"), ("weight_bytes", False, None)]


def test_agreement_speedup_and_latency_come_from_the_engine_itself():
    p50 = {"p50": 2.0, "p95": 2.5, "p99": 3.0, "mean": 2.1, "std": 0.1, "n": 10}
    int8 = engine("int8.onnxruntime.cpu_x86", agreement_percent=99.0, latency_ms=p50, **speedup(2.9))
    found = verdicts({"agreement": 99.0, "speedup": 3.0, "latency_ms": 2.0}, FP32, int8)
    assert [found[int8["name"], limit] for limit in ("agreement", "speedup", "latency_ms")] == [True, False, True]


def test_a_limit_needing_fp32_is_not_checked_when_no_fp32_engine_was_measured():
    (result,) = check_limits(Limits.model_validate({"top1_drop": 1}), [engine("int8.onnxruntime.cpu_x86")])
    assert (result.held, result.reason) == (None, "no FP32 engine was measured to compare with")


def test_a_precision_asked_for_by_name_fails_plainly_when_none_of_its_engines_was_measured():
    engines = [FP32, engine("int8.tensorrt_rtx.sm86", None), engine("int8.tensorrt_rtx.sm89", None)]
    (result,) = check_limits(Limits.model_validate({"int8": {"speedup": 3}}), engines)
    assert result.held is False
    assert broken([result]) == [
        "int8: speedup: not held: no INT8 engine could be checked here (no GPU); asked at least 3×"]


def test_a_precision_asked_for_by_name_fails_plainly_when_the_build_has_no_such_engine():
    (result,) = check_limits(Limits.model_validate({"bf16": {"top1": 90}}), [FP32])
    assert "the build has no BF16 engine" in broken([result])[0]


def test_one_measured_engine_of_a_precision_is_enough_for_the_others_not_to_fail():
    engines = [FP32, engine("int8.onnxruntime.cpu_x86", **speedup(4.0)), engine("int8.tensorrt_rtx.sm86", None)]
    assert verdicts({"int8": {"speedup": 3}}, *engines) == {
        ("int8.onnxruntime.cpu_x86", "speedup"): True, ("int8.tensorrt_rtx.sm86", "speedup"): None}


@pytest.mark.parametrize(("limit", "asked", "found", "message"), [
    ("speedup", 3, 2.41, "e: speedup: found 2.41×, asked at least 3×"),
    ("top1_drop", 0.5, 0.83, "e: top1_drop: found 0.83 points, asked at most 0.5 points"),
    ("weight_bytes", 0.27, 0.502, "e: weight_bytes: found 0.502 of FP32, asked at most 0.27 of FP32"),
    ("engine_bytes", 1_000_000, 2_500_000, "e: engine_bytes: found 2,500,000 bytes, asked at most 1,000,000 bytes"),
    ("top1", 99, 98.996, "e: top1: found 98.996 %, asked at least 99 %"),
])
def test_a_broken_limit_names_engine_limit_found_and_asked(limit: str, asked: float, found: float, message: str):
    result = LimitResult(engine="e", limit=limit, asked=asked, found=found, held=False)
    assert describe(result) == message


def test_a_limit_of_a_later_version_is_still_printed():
    result = LimitResult(engine="e", limit="energy", asked=3, found=2, held=False)
    assert asks(result) == "at least 3" and "energy" in describe(result)
    assert matrix([result]) == (["energy"], {"e": {"energy": result}})


def contract(kept: float, undecidable: float = 0.0, why: str = "", numbers: str = "kept") -> dict[str, Any]:
    verdict = "undecidable" if kept + undecidable == 1 else "broken"
    layers = [{"name": "conv1", "op": "Conv", "asked": "int8", "macs": 9, "verdict": verdict, "why": why}] if kept < 1 else []
    return {"contract": {"kept_share": kept, "undecidable_share": undecidable, "layers": layers,
                         "numbers": {"to_file": 0.5, "to_source": 0.5, "verdict": numbers, "why": "wrong" * (numbers != "kept")}}}


@pytest.mark.parametrize(("found", "held", "reason"), [
    (contract(1.0), True, None), (contract(0.91, why="x"), True, None), (contract(0.85, why="runs in float"), False, "conv1: runs in float"),
    (contract(0.0, 1.0, "hidden"), None, "conv1: hidden"), (contract(1.0, numbers="broken"), False, "wrong")])
def test_int8_runs_nine_tenths_of_its_multiply_adds_in_int8_unless_that_cannot_be_told(found: dict[str, Any], held: bool | None,
                                                                                     reason: str | None):
    (result,) = check_limits(Limits(), [FP32, engine("int8.onnxruntime.cpu_x86", **found)])
    assert (result.limit, result.asked, result.held, result.reason) == ("realised", 90, held, reason)


def test_a_broken_contract_says_why():
    results = check_limits(Limits(), [engine("int8.onnxruntime.cpu_x86", **contract(0.5, why="runs in float"))])
    assert broken(results) == ["int8.onnxruntime.cpu_x86: realised: found 50 %, asked at least 90 %: conv1: runs in float"]


def test_a_figure_that_would_hold_its_limit_does_not_stand_for_why_it_is_broken():
    (result,) = check_limits(Limits(), [engine("int8.onnxruntime.cpu_x86", **contract(1.0, numbers="broken"))])
    assert describe(result) == "int8.onnxruntime.cpu_x86: realised: not held: wrong; asked at least 90 %"
    assert found_words(result) == "wrong"


def test_a_floor_of_all_fails_with_a_broken_add_that_weighs_nothing_and_coarse_numbers_hold_no_floor():
    found = contract(1.0)
    found["contract"]["layers"] = [{"name": "add", "op": "Add", "asked": "int8", "verdict": "broken", "why": "in float"}]
    (result,) = check_limits(Limits.model_validate({"int8": {"realised": 100}}), [engine("int8.onnxruntime.cpu_x86", **found)])
    assert (result.held, result.reason) == (False, "add: in float")
    (result,) = check_limits(Limits(), [engine("int8.onnxruntime.cpu_x86", **contract(1.0, numbers="undecidable"))])
    assert (result.held, result.reason) == (None, "wrong")


def test_the_default_of_realised_gives_way_to_a_flat_limit_and_to_null():
    slow = engine("int8.onnxruntime.cpu_x86", **contract(0.5, why="x"))
    assert verdicts({"realised": 40}, slow) == {(slow["name"], "realised"): True}
    assert verdicts({"int8": {"realised": None}}, slow) == {}


def test_a_default_asks_for_nothing_by_name_even_when_it_is_written_out():
    hidden = engine("int8.tensorrt_rtx.sm86", None, **contract(0.0, 1.0, "hidden"))
    for limits in ({}, Limits().model_dump()):
        assert verdicts(limits, hidden) == {(hidden["name"], "realised"): None}


@pytest.mark.parametrize(("low", "high", "held"), [(1.1, 1.3, True), (0.9, 0.95, False), (0.99, 1.01, False), (0.9, 1.2, None)])
def test_faster_is_judged_on_the_interval(low: float, high: float, held: bool | None):
    int8 = engine("int8.onnxruntime.cpu_x86", speedup_vs_fp32={"value": (low + high) / 2, "low": low, "high": high})
    assert verdicts({"int8": {"faster": True}}, FP32, int8)[int8["name"], "faster"] is held


def test_faster_also_means_faster_than_an_fp16_engine_that_computes_in_fp16():
    fp16 = engine("fp16.tensorrt_rtx.sm86", compute="fp16", **speedup(2.0))
    int8 = engine("int8.tensorrt_rtx.sm86", **speedup(1.5))
    assert verdicts({"int8": {"faster": True}}, FP32, fp16, int8)[int8["name"], "faster"] is False
    storage = engine("fp16.tensorrt_rtx.sm86", compute="fp32", **speedup(2.0))
    assert verdicts({"int8": {"faster": True}}, FP32, storage, int8)[int8["name"], "faster"] is True


def test_realised_asked_by_name_fails_when_no_engine_can_be_opened():
    hidden = engine("int8.tensorrt_rtx.sm86", None, **contract(0.0, 1.0, "hidden"))
    (message,) = broken(check_limits(Limits.model_validate({"int8": {"realised": 95}}), [hidden]))
    assert "no INT8 engine could be checked here (conv1: hidden)" in message

"""What was taught, in words; every figure is rounded by hand from conftest's FIDELITY."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.report import taught
from toolchain.report.fidelity import Fidelity, Interval
from toolchain.report.schema import Report


def found(content: dict[str, Any]) -> Fidelity:
    return Fidelity.model_validate(content)


@pytest.mark.parametrize(("value", "text"), [
    (1.80404, "1.8040"), (0.01234, "0.0123"), (0.001, "0.0010"), (0.00045, "0.00045"), (0.0000123, "0.000012"), (2.34e-10, "2.3e-10"),
    (0.0, "0"), (1.43e-17, "0")])
def test_nats_keep_two_digits_at_least_and_rounding_is_zero(value: float, text: str):
    assert taught.nats(value) == text


def test_ends_below_zero_carry_a_true_minus_and_zero_has_no_sign():
    assert taught.to(Interval(value=0.1, low=-0.285, high=1.114), 2) in ("−0.28 to 1.11", "−0.29 to 1.11")
    assert [taught.minus(v, 2) for v in (-0.001, 0.0, -1.5, 2.0)] == ["0.00", "0.00", "−1.50", "2.00"]


def test_the_teacher_comes_first_and_has_no_distance_to_itself(fidelity: dict[str, Any]):
    rows = taught.engine_rows(found(fidelity))
    assert rows[0] == ("teacher", "99.17", "97.6–99.7", "–", "", "–", "–", "–", "")
    assert rows[1] == ("fp32.onnxruntime.cpu_x86", "98.61", "", "0.0123", "0.0101–0.0147", "0.0123", "0.0032", "98.89", "97.8–99.7")
    assert [row.name for row in rows] == ["teacher", "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86"]


def test_a_teacher_with_a_name_of_its_own_is_still_called_teacher(fidelity: dict[str, Any]):
    fidelity["teacher"]["name"] = "resnet50.onnx"
    assert taught.engine_rows(found(fidelity))[0].name == "resnet50.onnx (teacher)"


@pytest.mark.parametrize(("low", "high", "random", "verdict", "tone"), [
    (0.62, 0.70, 0.61, "above random", "good"), (0.40, 0.60, 0.61, "below random", "bad"), (0.60, 0.70, 0.61, "no difference", "plain")])
def test_a_cosine_is_held_against_the_random_network(
        fidelity: dict[str, Any], low: float, high: float, random: float, verdict: str, tone: str):
    fidelity["gradcam"] |= {"cosine": {"value": (low + high) / 2, "low": low, "high": high}, "random_cosine": random}
    maps = found(fidelity).gradcam
    assert maps is not None
    row = taught.map_rows(maps)[0]
    assert (row.verdict, row.tone, row.random) == (verdict, tone, "0.610")


def test_zero_maps_of_all_three_networks_are_counted(fidelity: dict[str, Any]):
    del fidelity["gradcam"]["random_zero_percent"]
    maps = found(fidelity).gradcam
    assert maps is not None
    assert taught.map_rows(maps)[2] == ("Zero maps", "1.1 %", "", "–", "0.3 %", "", "plain")
    assert "(features.20)" in taught.map_intro(maps) and "4 × 4" in taught.map_intro(maps)


def test_the_drop_under_jitter_says_where_it_is_no_difference(fidelity: dict[str, Any]):
    teacher, fp32, int8 = taught.jitter_rows(found(fidelity))
    assert teacher == ("teacher", "99.17", "95.00", "4.17", "", "–")  # 99.17 - 95.00
    assert fp32 == ("fp32.onnxruntime.cpu_x86", "98.61", "94.44", "4.17", "2.22 to 6.11", "top-1 lower")
    assert int8.verdict == "no difference"  # -0.56 to 1.11 holds 0
    fidelity["jitter"]["engines"][0]["drop"] = {"value": -3.0, "low": -4.0, "high": -2.0}
    assert taught.jitter_rows(found(fidelity))[1].verdict == "top-1 higher"


def test_the_jitter_is_named_with_its_amounts_and_seed(fidelity: dict[str, Any]):
    jitter = found(fidelity).jitter
    assert jitter is not None
    assert "(brightness 0.4, contrast 0.4, saturation 0.4, hue 0.1; seed 7)" in taught.jitter_intro(jitter)


def test_what_is_absent_has_no_rows_and_maps_say_why(fidelity: dict[str, Any]):
    bare = found(fidelity | {"jitter": None, "gradcam": None, "gradcam_reason": "an ONNX file has no gradients"})
    assert taught.jitter_rows(bare) == [] and taught.no_maps(bare) == "No Grad-CAM maps: an ONNX file has no gradients."
    assert taught.no_maps(found(fidelity)) == ""


def test_every_figure_is_explained():
    assert [name for name, _ in taught.MEANINGS] == [title.removesuffix(" nats").removesuffix(" %") for title in taught.ENGINE_TITLES[2:]]


def test_the_summary_names_the_first_engine_and_the_fastest_one(sample_report: Report, taught_report: Report, fidelity: dict[str, Any]):
    assert taught.summary(taught_report) == (
        "KL to the teacher 0.0123 nats, agreement 98.89 % (fp32.onnxruntime.cpu_x86); "
        "0.0140 nats, 98.61 % (int8.onnxruntime.cpu_x86)")
    assert taught.summary(sample_report) == ""
    nobody = Report.model_validate(taught_report.model_dump() | {"fidelity": fidelity | {"engines": []}})
    assert taught.summary(nobody) == ""

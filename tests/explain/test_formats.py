"""Limits and bit patterns against IEEE 754 arithmetic and published patterns, worked out by hand."""

import math

import pytest

from toolchain.cli import main
from toolchain.explain.formats import number_formats, pattern, rounded, truncated_bf16
from toolchain.explain.table import as_data, corrections

KNOWN = {f.name: f for f in number_formats()}


@pytest.mark.parametrize("name, exponent, fraction, largest, normal, subnormal, size", [
    ("fp32", 8, 23, (2 - 2.0**-23) * 2.0**127, 2.0**-126, 2.0**-149, 4),
    ("tf32", 8, 10, (2 - 2.0**-10) * 2.0**127, 2.0**-126, 2.0**-136, 4),  # stored as FP32
    ("fp16", 5, 10, (2 - 2.0**-10) * 2.0**15, 2.0**-14, 2.0**-24, 2),
    ("bf16", 8, 7, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133, 2),
    ("fp8_e4m3", 4, 3, 1.75 * 2.0**8, 2.0**-6, 2.0**-9, 1),  # all ones is NaN, so 1.875 * 2^8 is not there
    ("fp8_e5m2", 5, 2, 1.75 * 2.0**15, 2.0**-14, 2.0**-16, 1)])
def test_limits_follow_from_the_bits(
        name: str, exponent: int, fraction: int, largest: float, normal: float, subnormal: float, size: int) -> None:
    f = KNOWN[name]
    assert (f.exponent_bits, f.fraction_bits, f.bytes_each) == (exponent, fraction, size)
    assert (f.largest, f.smallest_normal, f.smallest_subnormal) == (largest, normal, subnormal)
    assert f.eps == 2.0**-fraction and f.lowest == -largest
    assert f.bits == 1 + exponent + fraction
    assert f.infinity == (name != "fp8_e4m3")


def test_integers_have_no_exponent() -> None:
    assert (KNOWN["int8"].lowest, KNOWN["int8"].largest, KNOWN["int8"].eps) == (-128, 127, None)
    assert (KNOWN["int4"].lowest, KNOWN["int4"].largest, KNOWN["int4"].bytes_each) == (-8, 7, 0.5)


@pytest.mark.parametrize("value, name, bits, held", [
    (1e-8, "fp16", "0x0000", 0.0), (1e-8, "bf16", "0x322C", (128 + 44) / 128 * 2.0**-27),
    (100000.00001, "fp16", "0x7C00", math.inf), (100000.00001, "bf16", "0x47C3", 99840.0),
    (1e-4, "fp16", "0x068E", (1024 + 0x28E) / 1024 * 2.0**-14), (1e-4, "bf16", "0x38D2", (128 + 0x52) / 128 * 2.0**-14),
    (65535.0, "fp16", "0x7C00", math.inf), (65519.99, "fp16", "0x7BFF", 65504.0), (65520.0, "fp16", "0x7C00", math.inf),
    (448.0, "fp8_e4m3", "0x7E", 448.0), (1.0, "fp32", "0x3F800000", 1.0)])
def test_patterns_of_the_examples(value: float, name: str, bits: str, held: float) -> None:
    assert pattern(value, name) == bits
    assert rounded(value, name) == held


def test_too_large_for_e4m3_is_nan_as_it_has_no_infinity() -> None:
    assert math.isnan(rounded(1e4, "fp8_e4m3"))


def test_tf32_rounds_ties_to_even() -> None:
    assert rounded(1 + 2.0**-11, "tf32") == 1.0  # half way, 1 is even
    assert rounded(1 + 3 * 2.0**-11, "tf32") == 1 + 2.0**-9  # half way between an odd and an even one
    assert rounded(1 + 2.0**-11 + 2.0**-20, "tf32") == 1 + 2.0**-10


def test_dropping_bytes_is_not_how_bf16_rounds() -> None:
    value, bits = truncated_bf16(1e-8)
    assert bits == "0x322B" and value == (128 + 43) / 128 * 2.0**-27 < rounded(1e-8, "bf16")


def test_every_mistake_of_the_report_is_named() -> None:
    told = "\n".join(corrections())
    for words in ("65535", "65504", "more memory", "dynamic range", "0x322C", "0x322B", "T4"):
        assert words in told


def test_the_data_can_be_written_as_strict_json() -> None:
    import json

    data = json.loads(json.dumps(as_data(), allow_nan=False))
    assert data["examples"][0]["fp16"] == {"bits": "0x0000", "value": 0.0}
    assert {f["name"] for f in data["formats"]} >= {"fp32", "tf32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "int4"}


def test_another_topic_is_told_with_the_one_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explain", "foo"])
    assert stop.value.code == 2 and "found the topic 'foo', expected formats: toolchain explain formats" in capsys.readouterr().err

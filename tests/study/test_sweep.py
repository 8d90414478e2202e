"""From the runs of a sweep to curves, laws and rows at equal bytes: made-up outcomes whose figures are done by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.study import load_study
from toolchain.study.figures import Outcome, coded_engine
from toolchain.study.html import render_html
from toolchain.study.markdown import render_markdown
from toolchain.study.result import StudyResult, summed_up
from toolchain.study.sweep_cells import at_rows, curve_rows, law_rows

Write = Callable[..., Path]
BITS = (2, 3, 4, 5, 6, 7, 8)
TEXT = """\
name: s
seeds: [0, 1, 2]
metrics: [top1, float_top1, packed_bytes]
sweep: {bits: [2, 3, 4, 5, 6, 7, 8], against: teacher}
rows:
  teacher: {recipe: tiny.yaml}
  student: {recipe: tiny.yaml, set: [model.width=0.25]}
"""
ENGINE = "int8_weight_only.onnxruntime.cpu_x86"


def outcome(top1: float, size: float) -> Outcome:
    return Outcome({"top1": top1, "float_top1": 96.0, "packed_bytes": size}, {"top1": np.ones(10, bool)}, 4, 10, "ab" * 32)


def summed(path: Path, seeds: int = 3, teacher: float = 95.0, size: float = 1e5) -> StudyResult:
    """Student: 90 - 32 / 2^(b - 2) + seed; teacher: constant `teacher`. Bytes: 1e5 b for the student, size b for the teacher."""
    file = load_study(path)
    runs: list[Any] = [type("Run", (), {"row": row, "seed": 0, "engine": ENGINE})() for row in file.study.rows]
    outcomes: Any = {}
    for seed in range(seeds):
        for bits in BITS:
            outcomes[f"student.{bits}bit", seed] = outcome(90 - 32 / 2 ** (bits - 2) + seed, 1e5 * bits)
            outcomes[f"teacher.{bits}bit", seed] = outcome(teacher + 0.1 * bits - 2.0 ** (1 - bits), size * bits)
    return summed_up(file, runs, outcomes)


def test_each_row_becomes_one_for_each_number_of_bits(write: Write) -> None:
    file = load_study(write(TEXT))
    assert list(file.study.rows)[:2] == ["teacher.2bit", "teacher.3bit"] and len(file.study.rows) == 14
    assert file.study.rows["student.5bit"].set == ("model.width=0.25", "quantize.bits=5")
    assert file.swept["student"][8] == "student.8bit" and file.lines["student.8bit"] == 7


def test_the_law_and_its_intervals_come_from_the_seeds(write: Write) -> None:
    found = summed(write(TEXT)).sweep
    assert found is not None
    law = found.curves[1].law
    assert law is not None and found.curves[1].no_law is None
    assert law.a.value == pytest.approx(91) and law.amplitude.value == pytest.approx(32)  # seeds: 90, 91, 92
    assert (law.a.low, law.a.high) == (pytest.approx(91 - 2.4841, abs=1e-3), pytest.approx(91 + 2.4841, abs=1e-3))
    assert law.bits_for_one_point is not None and law.bits_for_one_point.value == pytest.approx(7)
    assert law.float_gap == pytest.approx(5.0) and law.rmse < 1e-6
    assert law_rows(found)[1] == ("student", "91.00 (88.52 to 93.48)", "32.00 (32.00 to 32.00)", "0.69 (0.69 to 0.69)", "0.00",
                                  "7.00 (7.00 to 7.00)", "+5.00")
    assert curve_rows(found)[2][1:3] == ("59.00 ± 1.00", "75.00 ± 1.00") and curve_rows(found)[3][1] == "200 kB"


@pytest.mark.parametrize("seeds, bits", [(2, 7), (3, 4)])
def test_too_few_points_make_no_law(write: Write, seeds: int, bits: int) -> None:
    text = TEXT.replace("[2, 3, 4, 5, 6, 7, 8]", str(list(BITS[:bits])))
    found = summed(write(text), seeds).sweep
    assert found is not None and found.curves[1].law is None
    assert found.curves[1].no_law == f"no law: too few points ({bits} numbers of bits x {seeds} seeds, at least 5 x 3)"


def curves(path: Path, student: dict[int, tuple[float, ...]], whole: dict[int, float]) -> Any:
    """The curve of the student whose seeds have these values at 2 to 8 bits, and these float accuracies."""
    file = load_study(path)
    runs: list[Any] = [type("Run", (), {"row": row, "seed": 0, "engine": ENGINE})() for row in file.study.rows]
    outcomes: Any = {}
    for seed, values in student.items():
        for bits, top1 in zip(BITS, values, strict=False):
            figures = {"top1": top1, "float_top1": whole[seed], "packed_bytes": 1e5 * bits}
            outcomes[f"student.{bits}bit", seed] = Outcome(figures, {"top1": np.ones(10, bool)}, 4, 10, "ab" * 32)
    found = summed_up(file, runs, outcomes).sweep
    assert found is not None
    return found.curves[1]


def test_a_curve_of_another_form_has_no_law(write: Write) -> None:
    found = curves(write(TEXT), dict.fromkeys(range(3), (10.0, 12, 60, 85, 90, 91, 91)), dict.fromkeys(range(3), 92.0))
    assert found.law is None and str(found.no_law).startswith("no law: the curve is of another form")


def test_a_seed_without_a_law_of_its_own_takes_the_intervals_away(write: Write) -> None:
    bent = tuple(90 - 40 * 0.5 ** (b - 2) for b in BITS)
    found = curves(write(TEXT), {0: bent, 1: bent, 2: (50, 57, 64, 71, 78, 85, 92)}, dict.fromkeys(range(3), 92.0))
    assert found.law is not None and found.law.a.value < 100
    assert [getattr(found.law, name).low for name in ("a", "amplitude", "k", "bits_for_one_point")] == [None] * 4


def test_an_interval_beyond_what_can_be_is_left_out(write: Write) -> None:
    students = {seed: tuple(top - 30 * 0.5 ** (b - 2) for b in BITS) for seed, top in enumerate((95, 97, 99.5))}
    law = curves(write(TEXT), students, dict.fromkeys(range(3), 99.0)).law
    assert law.a.value == pytest.approx(97.1667, abs=1e-3) and law.a.high is None  # 97.17 + 5.6
    assert law.k.low == pytest.approx(0.6931, abs=1e-3)


def test_float_above_a_is_of_the_seeds_of_the_law(write: Write) -> None:
    bent = tuple(90 - 40 * 0.5 ** (b - 2) for b in BITS)
    students = {0: bent, 1: bent, 2: bent, 3: bent[:3]}  # the fourth is not finished
    found = curves(write(TEXT), students, {0: 92, 1: 93, 2: 94, 3: 20})
    assert found.law.float_gap == pytest.approx(3.0) and found.float_top1 == pytest.approx((92 + 93 + 94 + 20) / 4)


def test_rows_are_compared_at_equal_bytes_where_both_reach_them(write: Write) -> None:
    result = summed(write(TEXT), size=2e5)  # teacher 0.4 to 1.6 MB, student 0.2 to 0.8 MB: both reach 0.4 to 0.8
    assert result.sweep is not None
    sizes = [at.bytes for at in result.sweep.at_bytes]
    assert sizes == [4e5, 5e5, 6e5, 7e5, 8e5]
    first = result.sweep.at_bytes[0]  # teacher's 2 bits 94.7, student's 4 bits 82 + seed
    assert (first.row_top1, first.against_top1, first.mean) == (pytest.approx(83), pytest.approx(94.7), pytest.approx(-11.7))
    assert first.verdict == "lower"
    between = result.sweep.at_bytes[1]  # of the teacher between 2 bits (0.4 MB) and 3 (0.6 MB): 94.7 and 95.05
    share = np.log(5 / 4) / np.log(6 / 4)
    assert between.against_top1 == pytest.approx(94.7 + share * 0.35)
    assert at_rows(result.sweep)[0][1] == "400 kB"


def test_without_a_size_in_common_nothing_is_said(write: Write) -> None:
    result = summed(write(TEXT), size=1e6)
    assert result.sweep is not None and result.sweep.at_bytes == [] and result.sweep.apart == ["student and teacher"]
    assert "nothing is said of equal bytes" in render_markdown(result)


def test_pages_show_curves_law_and_comparison(write: Write) -> None:
    result = summed(write(TEXT), size=2e5)
    text, page = render_markdown(result), render_html(result)
    assert "## Accuracy against bits" in text and "Against teacher at equal bytes" in text and "−11.70" in text
    assert page.count('<svg class="sweep"') == 2 and "packed MB (log scale)" in page
    assert "student, 4 bit, 0.4 MB: 83.00 %" in page
    assert "nan" not in page.lower().replace("finance", "") and StudyResult.model_validate_json(result.to_json()) == result


def test_the_engine_with_float_activations_is_judged_where_there_is_one() -> None:
    names = ["fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86", "int4.onnxruntime.cpu_x86"]
    assert coded_engine(names, ("int4", "int8_weight_only", "int8")) == "int4.onnxruntime.cpu_x86"
    assert coded_engine([*names, ENGINE], ("int8_weight_only", "int8")) == ENGINE
    assert coded_engine(names, ("int8_weight_only", "int8")) == "int8.onnxruntime.cpu_x86"
    assert coded_engine(names[:1], ("int8",)) is None


@pytest.mark.parametrize("old, new, expected", [
    ("against: teacher", "against: teecher", "sweep: against: found 'teecher', expected one of the rows teacher, student, did you mean 'teacher'?"),
    ("[2, 3, 4, 5, 6, 7, 8]", "[4, 3]", "found 4, 3, expected rising numbers of bits"),
    ("[2, 3, 4, 5, 6, 7, 8]", "[9]", "sweep.bits"),
    ("against:", "agianst:", "sweep.agianst: unknown key"),
    ("rows:", "control: teacher\nrows:", "a sweep has no control"),
])
def test_mistakes_in_a_sweep_are_named(write: Write, old: str, new: str, expected: str) -> None:
    with pytest.raises(RecipeError) as wrong:
        load_study(write(TEXT.replace(old, new)))
    assert expected in str(wrong.value)

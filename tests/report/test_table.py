"""The table at the end of a build."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from toolchain.report.schema import Report
from toolchain.report.table import print_report


def printed(report: Report, width: int, terminal: bool, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_report(report, Console(file=file, width=width, force_terminal=terminal, color_system=None, highlight=False))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [100, 118, 140])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(sample_report: Report, width: int):
    text = printed(sample_report, width, terminal=True)
    assert max(map(len, text.splitlines())) <= width
    engine_lines = text.split("Limits")[0]
    assert all(figure in engine_lines for figure in ("98.33", "96.4–99.2", "99.44", "0.969", "6.62×", "6.42–6.82", "9.3 MB"))
    assert engine_lines.count("…") == 5  # only the long target lists: sm80…sm121


def test_an_unmeasured_engine_says_why_across_the_row(sample_report: Report):
    row = next(line for line in printed(sample_report, 124, terminal=False).splitlines() if line.startswith("INT8 tensorrt_rtx"))
    assert "not measured: no GPU" in row and row.rstrip().endswith("11.0 MB") and "9.3 MB" in row


def test_a_long_reason_takes_no_room_from_the_figures(sample_report: Report):
    reason = "cannot be built: " + "stages/import-3117760b5677d5bd/model.onnx: " * 8
    broken = sample_report.engines[-1].model_copy(update={"built": False, "reason": reason})
    text = printed(sample_report.model_copy(update={"engines": [*sample_report.engines[:-1], broken]}), 124, terminal=False)
    assert "98.61 96.8–99.4" in text and "INT4 tensorrt_rtx sm80…sm121  cannot be built: stages/import-" in text
    assert text.count("model.onnx:") < 8 and max(map(len, text.splitlines())) <= 124


def test_without_a_terminal_there_is_no_line_drawing_and_no_escape_code(sample_report: Report):
    text = printed(sample_report, 124, terminal=False)
    assert not set(text) & set("│─╭╮╰╯├┤┼\x1b")


def test_broken_limits_stand_below_and_the_rest_is_counted(sample_report: Report):
    text = printed(sample_report, 124, terminal=False)
    assert " ✗ int8.openvino.cpu_x86  top1_drop  0.55 points, asked at most 0.5 points" in text
    assert " ✓ 16 held, 3 not" in text and " – 9 not checked here (no GPU)" in text


def test_a_terminal_without_unicode_gets_the_same_table_in_ascii(sample_report: Report):
    text = printed(sample_report, 124, terminal=False, encoding="ascii")
    assert "6.62x" in text and "NO int8.openvino.cpu_x86" in text and "?" not in text


def test_one_line_says_how_near_the_teacher_is(sample_report: Report, taught_report: Report):
    assert "teacher" not in printed(sample_report, 200, terminal=False)
    assert printed(taught_report, 200, terminal=False).splitlines()[-1] == (
        "KL to the teacher 0.0123 nats, agreement 98.89 % (fp32.onnxruntime.cpu_x86); "
        "0.0140 nats, 98.61 % (int8.onnxruntime.cpu_x86)")

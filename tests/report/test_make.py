"""Joining what the stages delivered, and writing the three files."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.errors import WorkDirError
from toolchain.report.make import write_report
from toolchain.report.schema import Report


def test_gaps_history_and_limits_find_their_places(sample_report: Report):
    int8 = next(e for e in sample_report.engines if e.name == "int8.onnxruntime.cpu_x86")
    assert int8.gap is not None and int8.gap.max_abs == 0.33
    assert [(run.title, len(run.epochs)) for run in sample_report.training] == [("train", 12), ("qat", 2)]
    assert sum(limit.held is False for limit in sample_report.limits) == 3


def test_the_comparison_and_the_lesson_find_their_places(taught_report: Report):
    assert taught_report.fidelity is not None and taught_report.fidelity.images == 360
    assert [run.taught and run.taught.method for run in taught_report.training] == [None, "dkd"]


def test_three_files_are_written_and_nothing_else_stays(sample_report: Report, tmp_path: Path):
    paths = write_report(sample_report, tmp_path / "deep" / "out")
    assert sorted(p.name for p in (tmp_path / "deep" / "out").iterdir()) == ["report.html", "report.json", "report.md"]
    assert set(paths) == {"json", "md", "html"}


def test_the_same_report_gives_the_same_bytes(sample_report: Report, tmp_path: Path):
    first, second = write_report(sample_report, tmp_path / "a"), write_report(sample_report, tmp_path / "b")
    assert all(first[kind].read_bytes() == second[kind].read_bytes() for kind in first)


def test_a_folder_that_cannot_be_written_is_named(sample_report: Report, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkDirError, match="file/report.json: cannot be written"):
        write_report(sample_report, tmp_path / "file")

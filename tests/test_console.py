"""Progress without a terminal: few lines, none twice."""

import pytest

from toolchain import console


def test_plain_progress_says_done_total_and_values_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    with console.bar("train", 4) as bar:
        bar.advance(1, loss=2.5)
        bar.advance(3, loss=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("(")[0].strip() for line in lines] == ["train: 1/4", "train: 4/4"]
    assert lines[1].endswith("loss 0.25")


def test_short_work_prints_nothing_and_quiet_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with console.bar("quick", 1) as bar:
        bar.advance()
    monkeypatch.setattr(console, "_quiet", True)
    console.log("nothing")
    assert capsys.readouterr().err == ""

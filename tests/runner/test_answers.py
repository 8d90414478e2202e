"""What the runner says arrives, whatever the terminal is."""

import io

import pytest

from toolchain.runner.answers import Out


def test_a_terminal_without_unicode_shows_a_question_mark_and_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(Out, "stream", terminal)
    Out.say("café \udcc3.png: seven 98 %")
    assert terminal.buffer.getvalue() == b"caf? ?.png: seven 98 %\n"  # type: ignore[attr-defined]

"""A command of the toolchain, and what it said."""

from __future__ import annotations

import pytest

from toolchain.cli import main


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code, and everything printed."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    assert "internal error" not in shown.err
    return int(stop.value.code or 0), shown.out + shown.err

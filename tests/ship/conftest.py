"""A finished build and a key to sign with."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import tiny_run
from said import call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished build, and a key to sign with."""
    monkeypatch.setenv("TOOLCHAIN_KEYS", str(tmp_path / "keys"))
    assert call(capsys, "keys", "new", "workshop")[0] == 0
    return tiny_run(tmp_path / "run")

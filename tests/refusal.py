"""What a refused command looks like: one message with an exit code, no traceback."""

from __future__ import annotations

from typing import Any


def refused(done: Any, code: int, *words: str) -> None:
    """The finished process ended with `code` and named every one of `words` on stderr."""
    assert done.returncode == code, done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr

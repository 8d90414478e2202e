"""What the runner says: JSON lines on stdout for the machine that called, one plain sentence on stderr for people."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

REFUSED, FAILED = 13, 14  # exit codes: of a bundle that is not accepted, of all else that cannot be


class Failed(Exception):
    """Why a command cannot be done on this device: one plain sentence."""


class Out:
    """Where answers go. When nobody listens any more (a cut cable), work goes on and its answer lies in a file."""

    stream: TextIO | None = None  # None: stdout as it is

    @classmethod
    def say(cls, line: str) -> None:
        """One line; a terminal without Unicode shows '?' for what it lacks."""
        stream = cls.stream or sys.stdout
        coding = stream.encoding or "utf-8"
        try:
            print(line.encode(coding, "replace").decode(coding), file=stream, flush=True)
        except (OSError, ValueError):
            cls.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    @classmethod
    def keep_apart(cls) -> None:
        """What native libraries print on stdout goes to stderr from now on, and answers alone to stdout."""
        cls.stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)


def tell(answer: dict[str, Any]) -> None:
    """The answer of a command, its last line."""
    Out.say(json.dumps(answer, sort_keys=True))


def progress(doing: str, share: float | None = None) -> None:
    """How far it is, 0 to 1; None: not known."""
    Out.say(json.dumps({"progress": None if share is None else round(share, 3), "doing": doing}))


def plain(text: str) -> str:
    """`text` in one line that no terminal obeys."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))

"""The one form in which commands are sent: SSH hands a line to the user's login shell, which may be sh, csh or fish."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

ODD = re.compile(rb"[^A-Za-z0-9 ./=,:@%+_-]")  # what shells may give a meaning


def command_line(words: Sequence[str]) -> str:
    """A line by which any of them starts the program `words[0]` with the other words as they are.

    They are quoted for sh, which every device has, and what another shell might read otherwise is written as \\0ooo,
    which printf turns back (POSIX, printf %b): between the single quotes nothing is left of what they differ in, such
    as ! and line ends (csh), and backslashes before quotes (fish).
    """
    quoted = " ".join(map(shlex.quote, words)).encode("utf-8", "surrogateescape")
    told = ODD.sub(lambda found: b"\\0%03o" % found[0][0], quoted).decode("ascii")
    return f"""sh -c 'eval "exec $(printf %b "{told}")"'"""

"""Words reach a program as they are, whatever the login shell makes of the line that holds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.devices.code import START
from toolchain.devices.words import command_line

NASTY = ["a b", "it's", '"d"', "!x", "a!b!!", "$HOME", "`id`", "$(id)", "\\", "\\n", "\\'", "\\047", "a\nb", "ends\n", "\t", "%s%d", "*", "~",
         "#", "", "-n", "=x", "{a,b}", "(x)", "[a]", "<>|&;", "^x^", "é ł ā ÿ 日本 😀", "\x80\x81\x88\x9f", START]
SAY = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "busybox", "ksh", "mksh", "zsh", "csh", "tcsh", "fish"])
def test_any_login_shell_hands_words_on_as_they_are(shell: str, locale: str, tmp_path: Path) -> None:
    program = shutil.which(shell) or pytest.skip(f"{shell} is not installed")
    (python := tmp_path / "it's !1 $HOME ł" / "py\\thon").parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    line = command_line([str(python), "-c", SAY, *NASTY])
    told = subprocess.run([program, *(["sh"] if shell == "busybox" else []), "-c", line], capture_output=True, cwd=tmp_path,
                          env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": locale})
    assert (told.returncode, told.stdout.split(b"\0"), told.stderr) == (0, [word.encode() for word in NASTY], b"")


def test_what_shells_read_differently_is_not_in_the_line() -> None:
    assert command_line(["py thon", "-c", "it's!\n"]) == (
        """sh -c 'eval "exec $(printf %b "\\0047py thon\\0047 -c \\0047it\\0047\\0042\\0047\\0042\\0047s\\0041\\0012\\0047")"'""")

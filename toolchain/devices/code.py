"""The runner's own files on a device, held against what was sent whenever they are started, and sent again."""

from __future__ import annotations

import hashlib
import posixpath
import secrets
from collections.abc import Sequence
from functools import cache

from toolchain.devices.transport import Link
from toolchain.ship.gather import runner_files

ALTERED = 15  # exit code of START where the files are not there, or not what they were
END = "-- the runner ends here --"  # on stderr: what follows is the login shell's
START = f"""
import hashlib, os, sys
place, expected = sys.argv[1:3]
found = hashlib.sha256()
try:
    for folder, folders, names in sorted(os.walk(place)):
        for name in sorted(folders + names):
            path = os.path.join(folder, name)
            told = os.path.relpath(path, place).encode("utf-8")
            content = b"" if name in folders else open(path, "rb").read()
            found.update(hashlib.sha256(told).digest() + hashlib.sha256(content).digest())
except (EnvironmentError, ValueError):
    expected = None
if not found.hexdigest() == expected:
    sys.exit({ALTERED})
import runpy
sys.path[:] = [path for path in sys.path if path]
sys.argv[:] = [os.path.join(place, "run.py")] + sys.argv[3:]
print("")
sys.stdout.flush()
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stderr.write(os.linesep + "{END}" + os.linesep)
    sys.stderr.flush()
"""  # older Pythons can read it too, and are told so by run.py


def start(link: Link, words: Sequence[str]) -> list[str]:
    """The command that has the runner there do `words`, unless its files are not what was sent: ALTERED."""
    return [link.python, "-c", START, _place(link), digest(), "--folder", link.folder, *words]


async def put(link: Link, instead: bool) -> None:
    """Send the files. instead: what lies there is altered, and goes. Raises DeviceError."""
    made = f"{_place(link)}.{secrets.token_hex(4)}.part"
    await link.write({posixpath.join(made, name): file for name, file in _files().items()})
    await link.rename(made, _place(link), instead)


@cache
def digest() -> str:
    """SHA-256 of the runner, as START finds it: names and content of all that lies in its folder."""
    folders = {posixpath.dirname(name): b"" for name in _files() if "/" in name}
    content = sorted({**_files(), **folders}.items(), key=lambda one: posixpath.split(one[0]))
    parts = (hashlib.sha256(part).digest() for name, file in content for part in (name.encode(), file))
    return hashlib.sha256(b"".join(parts)).hexdigest()


@cache
def _files() -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in runner_files().items()}


def _place(link: Link) -> str:
    """Where this version of the runner lies: another one may be at work beside it."""
    return posixpath.join(link.folder, "code", digest()[:16])

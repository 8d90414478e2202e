"""The one folder on a device below which everything lies.

store/<sha256>: files, each named by its digest, <sha256>.part while it arrives. runs/<id>/: one job and its results.
slots/A, slots/B: bundles, verified and unpacked; current: a link to the one in use. keys/*.pub: whom to believe.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .answers import Failed, progress
from .trust import Refused

FOLDER = "~/.toolchain"
SLOTS = ("A", "B")
PART = ".part"
DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
BLOCK = 1 << 20


class Place:
    """Paths below the folder `root`, which need not be there yet."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(str(root))))
        self.store, self.runs, self.slots = self.root / "store", self.root / "runs", self.root / "slots"
        self.keys, self.link = self.root / "keys", self.root / "current"

    def blob(self, digest: Any) -> Path:
        """The file with this digest. Raises Failed where it is not there."""
        path = self.store / checked(digest)
        if not path.is_file():
            raise Failed(f"{self.store}: holds no {digest[:16]}; push it first")
        return path

    def run(self, name: Any) -> Path:
        """The folder of the job `name`. Raises Failed for a name that could lie elsewhere."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Failed(f"found the job id {name!r}, expected letters, digits, '.', '_' and '-'")
        return self.runs / name

    def current(self) -> str | None:
        """The slot in use."""
        try:
            name = os.path.basename(os.readlink(str(self.link)))
        except OSError:
            return None
        return name if name in SLOTS and (self.slots / name).is_dir() else None

    def switch(self, slot: str) -> None:
        """Make `slot` the current one: at every moment `current` is the old slot or the new one."""
        new = self.root / ".current.new"
        if os.path.lexists(str(new)):
            new.unlink()
        os.symlink(os.path.join("slots", slot), str(new))
        os.replace(str(new), str(self.link))
        flushed(self.root)

    def free_bytes(self) -> int:
        """Free space on the disk that the folder is, or will be, on."""
        path = self.root
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(str(path)).free


def checked(digest: Any) -> str:
    """`digest`, if it is a SHA-256 in hexadecimal. Raises Failed."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Failed(f"found {digest!r}, expected a SHA-256 of 64 hexadecimal digits")
    return digest


def have(place: Place, digests: Sequence[str]) -> dict[str, Any]:
    """Which of the files are there, whole, and how much has come of the others."""
    for folder in (place.store, place.runs):
        folder.mkdir(parents=True, exist_ok=True)
    found, parts = [], {}
    for digest in map(checked, digests):
        path = place.store / digest
        if path.is_file() and sha256_file(path) == digest:
            found.append(digest)
            os.utime(str(path))  # it is of use still, see tidy
            continue
        if path.is_file():  # the disk is not what it was
            path.unlink()
        part = place.store / f"{digest}{PART}"
        if part.is_file():
            parts[digest] = part.stat().st_size
    return {"have": found, "parts": parts, "store": str(place.store), "free_bytes": place.free_bytes()}


def put(place: Place, digests: Sequence[str]) -> dict[str, Any]:
    """Take files whose last byte has come into the store. Raises Refused for one that is not what its name says."""
    for digest in map(checked, digests):
        part, path = place.store / f"{digest}{PART}", place.store / digest
        if path.is_file() and not part.is_file():
            continue
        if not part.is_file():
            raise Failed(f"{part}: nothing has come of it; push it first")
        found = sha256_file(part)
        if found != digest:
            part.unlink()
            raise Refused(f"{part}: what came has SHA-256 {found[:16]}, not the one it was sent under; it was deleted: "
                          "push it again")
        os.replace(str(part), str(path))
    return {"stored": list(digests)}


def drop(place: Place, names: Sequence[str]) -> dict[str, Any]:
    """Remove the folders of jobs and their results. Raises Failed where one is at work."""
    there = [name for name in names if place.run(name).is_dir()]
    for name in there:
        if at_work(place.run(name)):
            raise Failed(f"the job {name} is at work; try again when it is done")
        shutil.rmtree(str(place.run(name)))
    return {"dropped": there}


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Alone with `path` until the end; another process that is at it is waited for."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), "a", encoding="utf-8") as file:
        if not _taken(file):
            progress(doing)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def at_work(folder: Path) -> bool:
    """Whether a process does the job in `folder` now."""
    return any(held(lock) for lock in folder.glob("*.lock"))


def held(lock: Path) -> bool:
    """Whether a process is at work under this lock."""
    with open(str(lock), "a", encoding="utf-8") as file:
        return not _taken(file)


def _taken(file: Any) -> bool:
    """Lock the file, unless another process has."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}{PART}")
    with open(str(part), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(part), str(path))


def write_json(path: Path, content: Any) -> None:
    """Write JSON that appears whole or not at all."""
    write(path, (json.dumps(content, indent=1) + "\n").encode("ascii"))


def flushed(folder: Path) -> None:
    """Have the disk know what was renamed in `folder`, before anybody is told."""
    handle = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

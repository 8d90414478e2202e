"""Room made on a device: files that no command asked for in a while. Slots, keys and the timing cache stay."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .answers import Failed
from .place import Place

DAY_S = 86_400
HERE = Path(__file__).resolve().parents[1]  # this version of the runner, which is at work


def tidy(place: Place, days: float) -> dict[str, Any]:
    """Remove files of the store, jobs and earlier runners that were last used `days` ago or earlier.

    Returns {"removed": how many, "freed_bytes", "free_bytes": of the disk}. Raises Failed while a job is at work.
    """
    for lock in place.runs.glob("*/*.lock"):
        if held(lock):
            raise Failed(f"the job {lock.parent.name} is at work; try again when it is done")
    old = time.time() - days * DAY_S
    removed, freed = 0, 0
    for path in _candidates(place):
        if path.stat().st_mtime <= old and path != HERE:
            freed += size_bytes(path)
            shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
            removed += 1
    return {"removed": removed, "freed_bytes": freed, "free_bytes": place.free_bytes()}


def size_bytes(path: Path) -> int:
    """Of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(str(path)) for name in names)


def _candidates(place: Place) -> Iterator[Path]:
    for folder in (place.store, place.runs, place.root / "code"):
        yield from sorted(folder.iterdir()) if folder.is_dir() else ()


def held(lock: Path) -> bool:
    """Whether a process is at work under this lock."""
    import fcntl

    with open(str(lock), "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False

"""Room made on a device: files that no command asked for in a while. Slots, keys and the timing cache stay."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .answers import Failed
from .place import Place, at_work

DAY_S = 86_400
JOBS_STAY_DAYS = 7.0
HERE = Path(__file__).resolve().parents[1]  # this version of the runner, which is at work


def tidy(place: Place, days: float) -> dict[str, Any]:
    """Remove files of the store, jobs and earlier runners that were last used `days` ago or earlier.

    Returns {"removed": how many, "freed_bytes", "free_bytes": of the disk}. Raises Failed while a job is at work.
    """
    for folder in place.runs.glob("*/"):
        if at_work(folder):
            raise Failed(f"the job {folder.name} is at work; try again when it is done")
    old = time.time() - days * DAY_S
    removed, freed = 0, 0
    for path in _candidates(place):
        if path.stat().st_mtime <= old and path.resolve() != HERE:
            freed += size_bytes(path)
            shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
            removed += 1
    return {"removed": removed, "freed_bytes": freed, "free_bytes": place.free_bytes()}


def forget_jobs(place: Place, but: Path) -> None:
    """Remove jobs, other than the one in the folder `but`, that nobody asked for in a week.

    Who has the results of a build does not remove it: another command may have asked the same, and fetch them still.
    """
    old = time.time() - JOBS_STAY_DAYS * DAY_S
    for folder in place.runs.glob("*/"):
        if folder.name != but.name and folder.stat().st_mtime <= old and not at_work(folder):
            shutil.rmtree(str(folder), ignore_errors=True)


def size_bytes(path: Path) -> int:
    """Of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(str(path)) for name in names)


def _candidates(place: Place) -> Iterator[Path]:
    for folder in (place.store, place.runs, place.root / "code"):
        yield from sorted(folder.iterdir()) if folder.is_dir() else ()

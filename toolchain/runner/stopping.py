"""A job that nobody waits for any more: whoever works at it is ended, and its folder removed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .answers import Failed
from .place import Place, drop, held

PATIENCE_S, AGAIN_S = 3.0, 0.05  # a process has so long to end by itself


def stop(place: Place, names: Sequence[str]) -> dict[str, Any]:
    """End the jobs and remove their folders. Raises Failed for one that cannot be ended."""
    stopped = [name for name in names if any([_ended(lock) for lock in sorted(place.run(name).glob("*.lock"))])]
    return {"stopped": stopped, **drop(place, names)}


def _ended(lock: Path) -> bool:
    """Whether there was somebody to end. Whoever waited for the lock gets it then, and is ended next."""
    start, found = time.monotonic(), False
    while held(lock) or (found and _held_again(lock)):
        found, late = True, time.monotonic() - start
        if late > 2 * PATIENCE_S:
            raise Failed(f"{lock}: the process that works at this job cannot be ended by this user")
        with suppress(OSError, ValueError):  # it has ended meanwhile, or has not told its number yet
            os.kill(int(lock.with_suffix(".pid").read_text()),
                    signal.SIGTERM if late < PATIENCE_S else signal.SIGKILL)
        time.sleep(AGAIN_S)
    return found


def _held_again(lock: Path) -> bool:
    """Whether somebody who waited for the lock has it now."""
    time.sleep(AGAIN_S)
    return held(lock)

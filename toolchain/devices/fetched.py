"""Samples that came from a device, held against its answers: another command may have had the same measured anew there,
and the files replaced, between the answer and the fetch, or while the line was cut in the midst of a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from toolchain.runner.rounds import summary

TORN = (OSError, EOFError, ValueError, LookupError, BadZipFile)  # half of one file and half of another
SAME = 1e-7  # relative: another numpy may round otherwise, and no other measurement is as near in all of it


def latencies(path: Path, told: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray[np.float64]] | None:
    """Milliseconds (rounds, runs) by engine. told: by engine, its summary among others; None: it is of others."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: np.asarray(stored[name], np.float64) for name in told}
        alike = all(_same(value, told[name][field]) for name in told for field, value in summary(found[name]).items())
    except TORN:
        return None
    return found if alike else None


def answers_are(path: Path, told: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the predictions have the top-1 that is told by engine."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels = stored["labels"]
            return all(_same(100 * float((stored[name][:, 0] == labels).mean()), one["top1_percent"])
                       for name, one in told.items())
    except TORN:
        return False


def _same(found: float, told: float) -> bool:
    return math.isclose(found, told, rel_tol=SAME)

"""What a finished build left for the gate: its report, every engine's answers, and its speed-ups by round.

Images are put in the order of their keys, so nothing here depends on the order or batches they were read in. Of images
that are there twice, labels and then answers decide the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.check.pack import coded, digest
from toolchain.errors import DataError
from toolchain.measure.latency import round_ratios
from toolchain.published import digests, proven, report_file
from toolchain.report.schema import Report, load_report

ANSWERS, TIMES = "predictions.npz", "latency.npz"


@dataclass(frozen=True)
class Run:
    """One finished build, or what it did on one device.

    labels: (N,) in order of the images' keys. keys_sha256, labels_sha256: of the sorted keys and their labels. codes:
    engine -> (N,) 0 where right, else the answer + 1. ratios: engine -> (rounds,) its FP32 engine's latency over its.
    device: by its name in devices.yaml; None: the machine that built.
    """

    report: Report
    labels: NDArray[np.int64]
    keys_sha256: str
    labels_sha256: str
    codes: dict[str, NDArray[np.int64]]
    ratios: dict[str, NDArray[np.float64]]
    device: str | None = None

    @property
    def on(self) -> str:
        """What a command that builds it again has to say besides, with a space behind it."""
        return f"--on {self.device} " if self.device else ""


def read_run(folder: Path) -> Run:
    """The build in `folder`. Raises WorkDirError, DataError or DigestMismatch, naming the file and what to do."""
    report = read_report(folder)
    _prove_engines(folder, report)
    answers, times = (read_arrays(proven(folder, name)) for name in (ANSWERS, TIMES))
    return joined(report, answers, times, folder)


def read_report(folder: Path) -> Report:
    """The report of the build in `folder`. Raises RecipeError (no such folder), WorkDirError or DigestMismatch."""
    return load_report(report_file(folder))


def joined(
    report: Report, answers: Mapping[str, NDArray[Any]], times: Mapping[str, NDArray[Any]], folder: Path,
    device: str | None = None,
) -> Run:
    """The run of a report with the answers and times that lie in `folder`. Raises DataError."""
    measured = [engine for engine in report.engines if engine.measured]
    if missing := [engine.name for engine in measured if engine.name not in answers]:
        raise DataError(f"{folder / ANSWERS}: has no answers of {', '.join(missing)}; build again")
    labels, keys = (answers.get(name) for name in ("labels", "keys"))
    if labels is None or keys is None or (measured and labels.shape != keys.shape):
        raise DataError(f"{folder / ANSWERS}: has no keys of the test images; it was made by an earlier version: run "
                        "`toolchain build` again")
    if not measured:
        raise DataError(f"{folder}: no engine of this build runs on {device or 'this machine'}, so there is nothing to "
                        "judge")
    order = np.lexsort((labels, keys))
    ratios = {engine.name: round_ratios(times[reference], times[engine.name]) for engine in measured
              if (reference := engine.latency_reference) and {reference, engine.name} <= set(times)}
    return Run(report, labels[order], digest(keys[order], "<u8"), digest(labels[order], "<i8"),
               {engine.name: sorted_codes(answers[engine.name][:, 0], labels, keys) for engine in measured}, ratios,
               device)


def _prove_engines(folder: Path, report: Report) -> None:
    """What is judged is there: each file of an engine that was built is the one that was written."""
    names = digests(folder)
    for engine in (engine for engine in report.engines if engine.built):
        own = {name for name in names if name.startswith(f"engines/{engine.name}/")}
        for name in sorted(own | ({engine.path} if engine.path else set())):
            proven(folder, name)


def sorted_codes(answers: NDArray[np.int64], labels: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Codes (N,) of answers (N,) in order of key, then label, then answer."""
    order = np.lexsort((answers, labels, keys))
    return coded(answers[order], labels[order])


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise DataError(f"{path}: cannot be read ({error}); delete it and build again") from None

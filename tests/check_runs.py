"""Made-up finished builds for the tests of the gate: what a build leaves, without building."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.check.finished_run import Run, sorted_codes
from toolchain.check.pack import digest
from toolchain.measure.latency import round_ratios
from toolchain.measure.npz import save_arrays
from toolchain.report.schema import Report

FP32, INT8 = "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86"
CLASSES = 10


def images(n: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Labels (n,) and keys (n,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(CLASSES, size=n), rng.integers(2**63, size=n, dtype=np.uint64)


def wrong_at(labels: NDArray[np.int64], rows: Any) -> NDArray[np.int64]:
    """Answers (n,) that are right but for `rows`."""
    answers = labels.copy()
    answers[rows] = (answers[rows] + 1) % CLASSES
    return answers


def times(ms: float, seed: int, rounds: int = 20, noise: float = 0.02) -> NDArray[np.float64]:
    """(rounds, 5) milliseconds about `ms`."""
    return ms * (1 + noise * np.random.default_rng(seed).standard_normal((rounds, 5)))


def report(answers: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], ms: dict[str, NDArray[np.float64]],
           drop: float | None = None, **changes: Any) -> Report:
    """drop: the recipe's limit on the INT8 engine's loss. changes: of every engine's record, by name of the field."""
    engines = [{
        "name": name, "precision": name.split(".")[0], "runtime": "onnxruntime", "target": "cpu_x86", "sha256": "ab" * 32,
        "engine_bytes": 1_000_000, "weight_bytes": 900_000, "measured": True, "peak_memory_bytes": 50_000_000,
        "top1_percent": 100 * float(np.mean(given == labels)), "accuracy_reference": FP32, "latency_reference": FP32,
        "latency_ms": {**dict.fromkeys(("p50", "p95", "p99", "mean"), float(np.median(ms[name]))), "std": 0.1, "n": 100},
        "latency_conditions": {"batch": 1, "threads": 2}, "runtime_version": "1.31.0", **changes,
    } for name, given in answers.items()]
    limits = [] if drop is None else [{"engine": INT8, "limit": "top1_drop", "asked": drop, "found": 0.0, "held": True}]
    return Report.model_validate({
        "recipe": {"name": "made"}, "environment": {"cpu": "Made CPU"}, "stages": [], "engines": engines, "limits": limits,
        "data": {"name": "made", "classes": [str(k) for k in range(CLASSES)], "train": 1, "val": 1, "test": len(labels),
                 "split_sha256": "cd" * 32}})


def made(labels: NDArray[np.int64], keys: NDArray[np.uint64], answers: dict[str, NDArray[np.int64]],
         ms: dict[str, NDArray[np.float64]] | None = None, **changes: Any) -> Run:
    """The same as reading what `write` leaves."""
    ms = ms or {name: times(4.0 if name == FP32 else 1.0, i) for i, name in enumerate(answers)}
    order = np.lexsort((labels, keys))
    return Run(report(answers, labels, ms, **changes), labels[order], digest(keys[order], "<u8"),
               digest(labels[order], "<i8"), {name: sorted_codes(a, labels, keys) for name, a in answers.items()},
               {name: round_ratios(ms[FP32], ms[name]) for name in answers})


def write(folder: Path, labels: NDArray[np.int64], keys: NDArray[np.uint64], answers: dict[str, NDArray[np.int64]],
          ms: dict[str, NDArray[np.float64]] | None = None, **changes: Any) -> Path:
    """A build's folder as far as the gate reads it."""
    ms = ms or {name: times(4.0 if name == FP32 else 1.0, i) for i, name in enumerate(answers)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report(answers, labels, ms, **changes).to_json())
    tops = {name: np.stack([given, (given + 1) % CLASSES], axis=1) for name, given in answers.items()}
    save_arrays(folder / "predictions.npz", {"labels": labels, "keys": keys, **tops})
    save_arrays(folder / "latency.npz", ms)
    (folder / "published.json").write_text(json.dumps({
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("predictions.npz", "latency.npz", "report.json")}))
    return folder

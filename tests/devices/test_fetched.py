"""Files of samples are taken for a device's answer only where they are what it tells of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolchain.devices import building
from toolchain.devices.fetched import answers_are, latencies
from toolchain.errors import DeviceError

# of 1, 2 and 3 ms
TOLD = {"fp32": {"p10": 1.2, "p50": 2.0, "p95": 2.9, "p99": 2.98, "mean": 2.0, "std": 1.0, "n": 3, "energy": None}}
TOP1 = {"fp32": {"top1_percent": 75.0}}  # three of four


def timed(path: Path, *ms: float) -> Path:
    np.savez(path, fp32=np.array([ms]))
    return path


def predicted(path: Path, *classes: int) -> Path:
    np.savez(path, labels=np.array([0, 1, 2, 3]), fp32=np.array([[one] for one in classes]))
    return path


def test_samples_are_those_whose_statistics_were_told(tmp_path: Path) -> None:
    found = latencies(timed(tmp_path / "a.npz", 1.0, 2.0, 3.0), TOLD)
    assert found is not None and found["fp32"].tolist() == [[1.0, 2.0, 3.0]]
    assert latencies(timed(tmp_path / "b.npz", 1.0, 2.0, 3.00001), TOLD) is None
    assert latencies(timed(tmp_path / "c.npz", 1.0, 2.0, 3.0), {**TOLD, "int8": TOLD["fp32"]}) is None


def test_predictions_are_those_whose_top1_was_told(tmp_path: Path) -> None:
    assert answers_are(predicted(tmp_path / "a.npz", 0, 1, 2, 0), TOP1)
    assert not answers_are(predicted(tmp_path / "b.npz", 0, 1, 2, 3), TOP1)


def test_half_of_one_file_and_half_of_another_is_neither(tmp_path: Path) -> None:
    first, second = (timed(tmp_path / name, *np.arange(1000) + add).read_bytes() for name, add in (("a.npz", 0.0), ("b.npz", 0.5)))
    (tmp_path / "mixed.npz").write_bytes(first[:4000] + second[4000:])
    assert latencies(tmp_path / "mixed.npz", TOLD) is None
    (tmp_path / "short.npz").write_bytes(first[:4000])
    assert latencies(tmp_path / "short.npz", TOLD) is None and not answers_are(tmp_path / "short.npz", TOP1)


def test_files_that_are_never_those_of_the_answers_are_given_up_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = list[str]()

    async def answer(link: object, command: str, content: object) -> dict[str, Any]:
        return {"file": command, "engines": TOLD if command == "bench" else TOP1}

    async def fetch(source: str, target: Path) -> None:
        fetched.append(source)
        (timed(target, 1.0) if "bench" in source else predicted(target, 0, 1, 2, 0))

    for name in ("job", "job_again"):
        monkeypatch.setattr(building, name, answer)
    with pytest.raises(DeviceError, match="^orin: the files that came are not those of its answers, 3 times; does another command"):
        asyncio.run(building._measured(SimpleNamespace(name="orin", folder="/ours", fetch=fetch), {}, tmp_path))  # type: ignore[arg-type]
    assert fetched == 3 * ["/ours/accuracy", "/ours/bench"]

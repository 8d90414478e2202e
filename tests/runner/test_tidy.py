"""Room is made on a device without touching what is deployed, trusted or at work."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from toolchain.runner.answers import Failed
from toolchain.runner.place import Place, have, locked, sha256_file
from toolchain.runner.tidy import forget_jobs, size_bytes, tidy


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Everything of it was last used 40 days ago."""
    made = Place(tmp_path / "device")
    for file in ("store/old", "store/old.part", "runs/j1/build.json", "code/0123/run.py", "slots/A/engine.onnx", "keys/k.pub",
                 "timing.cache"):
        path = made.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    for folder, _, names in os.walk(made.root, topdown=False):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.utime(path, (time.time() - 40 * 86_400,) * 2)
    return made


def test_what_nothing_asked_for_goes_and_slots_keys_and_cache_stay(place: Place) -> None:
    assert size_bytes(place.root) == 70
    found = tidy(place, 30)
    assert (found["removed"], found["freed_bytes"]) == (4, 40) and found["free_bytes"] > 0
    assert sorted(str(p.relative_to(place.root)) for p in place.root.rglob("*") if p.is_file()) == [
        "keys/k.pub", "slots/A/engine.onnx", "timing.cache"]
    assert tidy(place, 0)["removed"] == 0


def test_what_was_used_since_stays(place: Place) -> None:
    assert tidy(place, 41)["removed"] == 0
    digest = sha256_file(place.store / "old")
    (place.store / "old").rename(place.store / digest)
    os.utime(place.store / digest, (0, 0))
    assert have(place, [digest])["have"] == [digest]  # a later job asks for it
    assert tidy(place, 30)["removed"] == 3 and (place.store / digest).is_file()


def test_a_device_at_work_is_left_alone(place: Place) -> None:
    with locked(place.runs / "j1" / "build.lock", "waiting"), pytest.raises(Failed, match="the job j1 is at work"):
        tidy(place, 0)
    assert (place.store / "old").is_file()


def test_a_job_forgets_others_that_nobody_asked_for_in_a_week(place: Place) -> None:
    for name in ("j2", "j3"):
        (place.runs / name).mkdir()
    os.utime(place.runs / "j3", (0, 0))
    with locked(place.runs / "j3" / "build.lock", "waiting"):
        os.utime(place.runs / "j3", (0, 0))
        forget_jobs(place, place.runs / "j4")
        assert sorted(path.name for path in place.runs.iterdir()) == ["j2", "j3"]
    forget_jobs(place, place.runs / "j3")  # which asks
    assert sorted(path.name for path in place.runs.iterdir()) == ["j2", "j3"]


def test_a_device_without_anything_has_nothing_to_remove(tmp_path: Path) -> None:
    assert tidy(Place(tmp_path / "none"), 0)["removed"] == 0 and size_bytes(tmp_path / "none") == 0


def test_the_runner_at_work_stays_though_its_folder_is_a_link(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.root)
    monkeypatch.setattr("toolchain.runner.tidy.HERE", (place.root / "code/0123").resolve())
    assert tidy(Place(link), 0)["removed"] == 3 and (place.root / "code/0123/run.py").is_file()

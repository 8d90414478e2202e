"""A job that nobody waits for any more is ended, with whoever waits to go on with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from toolchain.runner.place import Place, held, locked
from toolchain.runner.stopping import stop

WORK = """
import os, pathlib, sys, time
from toolchain.runner.place import locked
lock = pathlib.Path(sys.argv[1])
print("began", flush=True)
with locked(lock, "waiting"):
    lock.with_suffix(".pid").write_text(str(os.getpid()))
    print("at work", flush=True)
    time.sleep(600)
"""


def worker(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WORK, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    return process


def test_who_works_at_a_job_and_who_waits_for_it_are_ended_and_its_folder_goes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    lock = place.runs / "j1" / "bench.lock"
    lock.parent.mkdir(parents=True)
    first = worker(lock)
    assert first.stdout is not None and first.stdout.readline() == "at work\n"
    second = worker(lock)
    assert stop(place, ["j1"]) == {"stopped": ["j1"], "dropped": ["j1"]}
    assert first.wait(30) != 0 and second.wait(30) != 0
    assert not lock.parent.exists()
    for process in (first, second):
        assert process.stdout is not None
        process.stdout.close()


def test_a_job_that_is_done_and_one_that_is_not_there_are_no_matter(tmp_path: Path) -> None:
    place = Place(tmp_path)
    lock = place.runs / "j1" / "bench.lock"
    with locked(lock, "waiting"):
        assert held(lock)
    assert stop(place, ["j1", "j2"]) == {"stopped": [], "dropped": ["j1"]}

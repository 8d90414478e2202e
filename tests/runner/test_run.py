"""run.py on a device: in an environment of numpy and onnxruntime alone, in other Pythons, and where something lacks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_bundle import (
    BEST,
    QUICK_JOB,
    color_bundle,
    color_net,
    engine_of_job,
    job_file,
    pictures,
    stored,
    trusting,
    unpacked,
)
from device_python import device_python, interpreter

from toolchain.ship.gather import runner_files

OTHERS = ("3.8", "3.9", "3.10", "3.12", "3.13")
TOO_OLD = ("2.7", "3.6", "3.7")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner as it lies on a device."""
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "runner").mkdir()
    for name, path in runner_files().items():
        shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python with numpy and onnxruntime, and nothing of ours."""
    return device_python(tmp_path_factory.mktemp("python") / "venv")


def run(python: str, place: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([python, str(place / "run.py"), *map(str, words)], capture_output=True, text=True, cwd="/",
                          env={"PATH": "/usr/bin:/bin", "HOME": str(place), "OMP_NUM_THREADS": "1", **env})
    assert "Traceback" not in done.stderr
    return done


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_nothing_of_ours_is_there_and_the_whole_runner_works(python: str, pushed: Path, tmp_path: Path) -> None:
    for module in ("torch", "toolchain", "onnx", "pydantic", "cryptography", "PIL"):
        assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, cwd="/").returncode == 1, module
    folder = trusting(tmp_path / "device")
    facts = answer(run(python, pushed, "--folder", folder, "probe"))
    assert facts["numpy"] == np.__version__ and set(facts["runtimes"]) == {"onnxruntime"} and facts["pillow"] is None
    assert facts["folder"] == str(folder) and facts["free_bytes"] > 0 and facts["broken"] == {}
    assert facts["python"] == sys.version.split()[0] and facts["machine"] == os.uname().machine

    digest = hashlib.sha256(color_bundle(tmp_path / "bundle").read_bytes()).hexdigest()
    there = answer(run(python, pushed, "have", digest, "--folder", folder))
    assert there["have"] == [] and there["parts"] == {}
    (folder / "store" / f"{digest}.part").write_bytes((tmp_path / "bundle").read_bytes())
    assert answer(run(python, pushed, "put", digest, "--folder", folder)) == {"stored": [digest]}
    found = answer(run(python, pushed, "install", digest, "--folder", folder))
    assert found["slot"] == "A" and found["golden"]["held"]
    assert not list((folder / "current" / "runner").glob("__pycache__"))

    image = tmp_path / "blue.npy"
    np.save(image, pictures()[2])
    done = run(python, folder / "current", image, "--top", "2")  # its own copy of the runner, out of the bundle
    assert re.search(r"blue\.npy:\n +\d+\.\d %  blue\n +\d+\.\d %  \w+\n", done.stdout), done.stderr
    assert answer(run(python, folder / "current", "golden"))["images"] == 6
    (tmp_path / "x.jpg").write_bytes(b"")
    assert "needs Pillow" in run(python, folder / "current", tmp_path / "x.jpg").stderr
    assert "instal: is no file; expected images, or a command: probe, " in run(python, pushed, "instal").stderr
    assert not list(folder.rglob("__pycache__"))


def test_it_starts_from_its_place_in_the_sources_too(python: str) -> None:
    done = subprocess.run([python, str(runner_files()["run.py"]), "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "install" in done.stdout, done.stderr


def test_its_help_names_images_and_commands_and_so_does_a_bare_call(python: str, pushed: Path) -> None:
    told = run(python, pushed, "--help").stdout
    assert all(word in told for word in ("IMAGE...", "--top", "--json", "--slot", "install", "keys"))
    bare = run(python, pushed)
    assert bare.returncode == 2 and "expected images, or a command: probe, " in bare.stderr


def test_a_job_goes_on_when_nobody_listens(python: str, pushed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    engine = engine_of_job("one", file=stored(folder, color_net()))
    job = job_file(folder, id="cut", bench={**QUICK_JOB, "rounds": 40}, engines=[engine])
    at_work = subprocess.Popen([python, str(pushed / "run.py"), "--folder", str(folder), "bench", str(job)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert at_work.stdout and at_work.stderr
    at_work.stdout.readline()  # its first progress; then the line is cut
    at_work.stdout.close()
    at_work.stderr.close()
    at_work.send_signal(signal.SIGHUP)
    assert at_work.wait(60) == 0
    assert answer(run(python, pushed, "--folder", folder, "bench", job))["cached"]


def test_what_came_damaged_is_told_and_sent_again(python: str, pushed: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "store").mkdir()
    part = tmp_path / "store" / f"{digest}.part"
    part.write_bytes(b"who")
    assert answer(run(python, pushed, "--folder", tmp_path, "have", digest))["parts"] == {digest: 3}
    done = run(python, pushed, "--folder", tmp_path, "put", digest)
    assert done.returncode == 13 and "was deleted: push it again" in done.stderr and not part.exists()
    done = run(python, pushed, "--folder", tmp_path, "put", digest)
    assert done.returncode == 14 and "push it first" in done.stderr
    done = run(python, pushed, "--folder", tmp_path, "have", "../../etc/passwd")
    assert done.returncode == 14 and "expected a SHA-256" in done.stderr


@pytest.fixture(scope="module", params=["bare", "numpy"])
def lacking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    packages = () if request.param == "bare" else ("numpy",)
    yield request.param, device_python(tmp_path_factory.mktemp("lacking") / "venv", packages)


def test_what_a_device_lacks_is_named(lacking: tuple[str, str], pushed: Path, tmp_path: Path) -> None:
    kind, python = lacking
    facts = answer(run(python, pushed, "probe"))
    assert (facts["numpy"] is None) == (kind == "bare") and facts["runtimes"] == {}
    folder = trusting(tmp_path / "device")
    done = run(python, pushed, "--folder", folder, "install", color_bundle(tmp_path / "bundle"))
    said = "numpy is not installed for" if kind == "bare" else "it runs in onnxruntime, which is not installed there"
    assert done.returncode == (14 if kind == "bare" else 13) and said in done.stderr
    engine = engine_of_job("one", onnx=stored(folder, color_net()))
    done = run(python, pushed, "--folder", folder, "build", job_file(folder, id="x", engines=[engine]))
    said = "numpy is not installed for" if kind == "bare" else "onnxruntime is not installed for"
    assert done.returncode == 14 and said in done.stderr and python in done.stderr


@pytest.mark.parametrize("version", OTHERS)
def test_other_pythons_read_all_of_it_and_verify(version: str, pushed: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    folder = trusting(tmp_path / "device")
    assert answer(run(python, pushed, "probe"))["python"].startswith(version)
    bundle = color_bundle(tmp_path / "bundle")
    code = ("import sys; sys.dont_write_bytecode = True; sys.path.insert(0, '.'); from pathlib import Path; "
            "from runner.bundle import open_bundle; from runner.trust import trusted_keys; "
            "found = open_bundle(Path(sys.argv[1]), trusted_keys(Path(sys.argv[2]))); print(found.key.key_id); "
            "import types, importlib; sys.modules.setdefault('numpy', types.ModuleType('numpy')); "  # a hollow one
            "[importlib.import_module('runner.' + p.stem) for p in Path('runner').glob('*.py')]; print('all')")
    done = subprocess.run([python, "-I", "-S", "-c", code, bundle, folder / "keys"], cwd=pushed, capture_output=True, text=True)
    assert done.stdout.split() == [BEST.key_id, "all"], done.stderr


@pytest.mark.parametrize("version", TOO_OLD)
def test_a_python_that_is_too_old_is_told(version: str, pushed: Path) -> None:
    done = run(interpreter(version), pushed, "probe")
    assert done.returncode == 14 and done.stderr == f"this is Python {version}, expected 3.8 or newer\n"


def test_without_the_folder_beside_it_that_is_told(tmp_path: Path) -> None:
    shutil.copy(runner_files()["run.py"], tmp_path)
    done = run(sys.executable, tmp_path, "probe")
    assert done.returncode == 14 and "expected the folder runner/ beside run.py" in done.stderr


def test_an_unpacked_bundle_is_a_whole_deployment(python: str, tmp_path: Path) -> None:
    folder = unpacked(color_bundle(tmp_path / "bundle"), tmp_path / "unpacked")
    np.save(tmp_path / "red.npy", pictures()[0])
    done = run(python, folder, tmp_path / "red.npy", "--json")
    assert json.loads(done.stdout)["images"][0]["labels"][0]["label"] == "red"

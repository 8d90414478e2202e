"""examples/cpp builds with CMake against a bundle, and replays its golden answers: here with TensorRT played on the CPU,
and against the real one where it is installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from color_bundle import color_bundle, unpacked

EXAMPLE, PLAYED = Path(__file__).parents[2] / "examples/cpp", Path(__file__).parent / "played"
pytestmark = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="cmake or g++ is not installed")


def configured(build: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", "-S", EXAMPLE, "-B", build, *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked bundle; its engine.trt is what the played TensorRT reads."""
    folder = tmp_path_factory.mktemp("bundle")
    unpacked(color_bundle(folder / "file"), folder)
    (folder / "engine/engine.trt").write_bytes(struct.pack("<f", 1.0))
    return folder


@pytest.fixture(scope="module")
def program(bundle: Path) -> Path:
    """Built with CMake against the played headers and two empty libraries."""
    build = bundle / "build"
    for name in ("nvinfer", "cudart"):
        (bundle / f"lib{name}.a").write_bytes(b"!<arch>\n")
    done = configured(build, f"-DBUNDLE={bundle}", f"-DTENSORRT_INCLUDE={PLAYED}", f"-DCUDA_INCLUDE={PLAYED}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror",
                      f"-DTENSORRT_LIBRARY={bundle / 'libnvinfer.a'}", f"-DCUDA_LIBRARY={bundle / 'libcudart.a'}")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["cmake", "--build", build], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return build / "golden"


def test_golden_answers_are_replayed(program: Path, bundle: Path) -> None:
    done = subprocess.run([program, bundle], capture_output=True, text=True)
    assert done.returncode == 0 and "golden answers hold" in done.stdout, done.stderr
    assert "golden image 1: green, expected green" in done.stdout and done.stdout.count("golden image") == 6


def test_an_engine_that_computes_otherwise_is_told(program: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(struct.pack("<f", 1.5))
    done = subprocess.run([program, bundle, tmp_path / "other"], capture_output=True, text=True)
    assert done.returncode == 1 and "distance 0.5, allowed 0.01: golden answers do not hold" in done.stdout
    (tmp_path / "other").write_bytes(b"no engine")
    done = subprocess.run([program, bundle, tmp_path / "other"], capture_output=True, text=True)
    assert done.returncode == 2 and "this TensorRT cannot open it" in done.stderr


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    done = configured(tmp_path / "build", f"-DBUNDLE={tmp_path}")
    assert done.returncode != 0 and "expected the folder of an unpacked bundle" in done.stderr


def test_it_is_configured_and_built_against_a_real_tensorrt(bundle: Path, tmp_path: Path) -> None:
    done = configured(tmp_path / "build", f"-DBUNDLE={bundle}")
    if "was not found" in done.stderr:
        pytest.skip("TensorRT or the CUDA toolkit is not installed here: " + " ".join(done.stderr.split())[:120])
    assert done.returncode == 0, done.stderr
    built = subprocess.run(["cmake", "--build", tmp_path / "build"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout

"""NVIDIA's driver through ctypes: held against a library with the driver's signatures, played in host memory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toolchain.runner import cuda
from toolchain.runner.answers import Failed

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run(["g++", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", Path(__file__).parent / "played/libcuda.cpp",
                    "-o", made], check=True)
    return str(made)


@pytest.fixture
def driver(library: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libnowhere.so", library))
    cuda.library.cache_clear()
    cuda.begin.cache_clear()
    yield
    cuda.library.cache_clear()
    cuda.begin.cache_clear()


def test_the_gpu_is_named(driver: None) -> None:
    assert cuda.gpu() == {"name": "Orin (played)", "sm": 87, "memory_bytes": 32 << 30, "cuda": "12.6"}


def test_arrays_go_to_the_gpu_and_come_back_and_events_time_what_lies_between(driver: None) -> None:
    cuda.begin()
    stream, first, second = cuda.Stream(), cuda.Buffer(4000), cuda.Buffer(400)
    assert second.pointer - first.pointer == 4000 and first.pointer > 1 << 32 and stream.number > 0
    sent, more, found = np.arange(1000, dtype=np.float32), np.full(100, 7, np.float32), np.empty(1000, np.float32)
    stream.copy_in(first, sent)
    stream.copy_in(second, more)
    stream.copy_out(found, first)
    stream.synchronize()
    assert np.array_equal(found, sent)
    stream.start()
    assert stream.stop_ms() == 1.5
    with pytest.raises(Failed, match="CUDA: cuMemcpyHtoDAsync_v2 failed with CUDA_ERROR_INVALID_VALUE"):
        stream.copy_in(second, np.zeros(1000, np.float32))
    for buffer in (first, second, first):  # twice is once
        buffer.free()
    stream.close()


def test_what_does_not_fit_is_told(driver: None) -> None:
    cuda.begin()
    with pytest.raises(Failed, match="CUDA: cuMemAlloc_v2 failed with CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.Buffer(1 << 40)


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libnowhere.so",))
    cuda.library.cache_clear()
    cuda.begin.cache_clear()
    try:
        assert cuda.gpu() is None
        with pytest.raises(Failed, match="there is no NVIDIA GPU on this device"):
            cuda.begin()
    finally:
        cuda.library.cache_clear()

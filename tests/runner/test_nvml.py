"""NVIDIA's management library through ctypes: held against a library with NVML's signatures."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toolchain.runner import conditions, cuda, nvml
from toolchain.runner.conditions import Counters, Watch, causes
from toolchain.runner.energy import counter, gpu_counter

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
QUIET = Counters(0.0, 0.0, 0.0, 0.0, None)
PLAYED = Path(__file__).parent / "played"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvidia")
    for name in ("libcuda", "libnvml"):
        subprocess.run(["g++", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", PLAYED / f"{name}.cpp",
                        "-o", folder / f"{name}.so"], check=True)
    return folder


@pytest.fixture
def played(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    monkeypatch.setattr(cuda, "LIBRARIES", (str(libraries / "libcuda.so"),))
    monkeypatch.setattr(nvml, "LIBRARIES", ("libnowhere.so", str(libraries / "libnvml.so")))
    library = ctypes.CDLL(str(libraries / "libnvml.so"))
    library.play.argtypes = [ctypes.c_uint] * 5 + [ctypes.c_ulonglong] * 2
    for found in (cuda.library, nvml.card):
        found.cache_clear()
    yield library
    for found in (cuda.library, nvml.card):
        found.cache_clear()


def test_the_gpu_that_engines_run_on_is_asked_how_it_stands(played: ctypes.CDLL) -> None:
    played.play(61_500, 1410, 1215, 54, 1, 0, 7_000_000_000_000)
    card = nvml.card()
    assert card is not None and card.joules() == 7e9
    assert card.settings() == {"gpu_mhz": 1410, "gpu_memory_mhz": 1215, "gpu_watts": 61.5, "gpu_celsius": 54}
    assert card.causes() == []


def test_what_a_gpu_does_not_tell_is_left_out(played: ctypes.CDLL) -> None:
    played.play(0, 1410, 0, 0, 0, 0, 0)
    card = nvml.card()
    assert card is not None and card.settings() == {"gpu_mhz": 1410} and card.joules() is None and gpu_counter() is None


def test_a_slowed_gpu_and_other_processes_on_it_are_causes_each_told_once(played: ctypes.CDLL) -> None:
    played.play(1, 1, 1, 1, 3, 0x4 | 0x40 | 0x1, 1)  # 0x1: idle, no fault
    watch = Watch(lambda: QUIET, gpu=True)
    for _ in range(2):
        with watch.around("e"):
            pass
        watch.round_ended()
    times = {"e": np.full((6, 4), 2.0)}
    found = causes("e", times, watch, 1, 1000, on_gpu=True)
    assert found == ["the GPU's clock was lowered by its power limit",
                     "the GPU's clock was lowered by its heat (hardware)",
                     "2 other processes computed on the GPU"]
    assert causes("e", times, watch, 1, 1000) == []  # of an engine on the CPU


def test_energy_is_counted_by_the_gpu_for_engines_on_it(played: ctypes.CDLL) -> None:
    played.play(1, 1, 1, 1, 1, 0, 5_000)
    found = counter(on_gpu=True)
    assert found is not None and found.name == "NVML"
    before = found.joules()
    played.play(1, 1, 1, 1, 1, 0, 5_250)
    assert found.joules() - before == pytest.approx(0.25)


def test_without_the_library_or_for_a_gpu_it_does_not_know_there_is_no_card(
    played: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "uuid", lambda: "GPU-ffffffff-4455-6677-8899-aabbccddeeff")
    assert nvml.card() is None
    nvml.card.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(nvml, "LIBRARIES", ("libnowhere.so",))
    assert nvml.card() is None and Watch(gpu=True).card is None


def test_what_the_kernel_holds_back_is_a_cause_and_a_fan_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (kind, state) in enumerate([("gpu-throttle-alert", 1), ("pwm-fan", 3), ("cpufreq-cpu0", 0)]):
        folder = tmp_path / f"cooling_device{number}"
        folder.mkdir()
        (folder / "type").write_text(f"{kind}\n")
        (folder / "cur_state").write_text(f"{state}\n")
    assert conditions.cooling(tmp_path) == ["the kernel held back gpu-throttle-alert for its heat"]
    assert conditions.cooling(tmp_path / "none") == []
    monkeypatch.setattr(conditions, "cooling", lambda: ["it is hot"])
    watch = Watch(lambda: QUIET)
    with watch.around("e"):
        pass
    watch.round_ended()
    assert causes("e", {"e": np.ones((6, 4))}, watch, 1, 1000) == ["it is hot"]

"""Energy of a run by counters of every kind, as the kernel and the driver show them."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from toolchain.measure.conditions import Watch
from toolchain.measure.energy import Counter, board_counter, cpu_counter, energy, gpu_counter
from toolchain.measure.nvml import gpu_causes, gpu_settings

IMAGES = np.zeros((4, 3, 8, 8), np.float32)


class Engine:
    """Counts its runs, and takes half a joule for each."""

    def __init__(self):
        self.runs = 0

    def time_ms(self, images, runs):
        self.runs += runs
        return np.zeros(runs)


def rapl(folder, name, microjoules, span=1000):
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", span)):
        (folder / file).write_text(f"{text}\n")


def test_what_the_counter_gained_is_shared_out_over_all_images():
    engine = Engine()
    found = energy(engine, IMAGES, Counter("played", lambda: 0.5 * engine.runs), seconds=0.01)
    assert found["millijoules"] == pytest.approx(125)  # 0.5 J over a batch of four
    assert found["runs"] == engine.runs - 1 and found["runs"] % 10 == 0 and found["counter"] == "played"


def test_rapl_adds_all_packages_and_goes_on_when_a_counter_wraps_around(tmp_path):
    rapl(tmp_path / "intel-rapl:0", "package-0", 900_000, span=1_000_000)
    rapl(tmp_path / "intel-rapl:1", "package-1", 100_000)
    rapl(tmp_path / "intel-rapl:0:0", "core", 5)  # a part of a package, which counts it already
    counter = cpu_counter(tmp_path, tmp_path / "none")
    before = counter.joules()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("200000\n")  # 0.3 J later
    (tmp_path / "intel-rapl:1/energy_uj").write_text("150000\n")
    assert counter.joules() - before == pytest.approx(0.35) and counter.name == "RAPL package-0, package-1"


def test_a_machine_without_a_counter_has_none(tmp_path):
    assert cpu_counter(tmp_path, tmp_path) is None and board_counter(tmp_path) is None
    rapl(tmp_path / "intel-rapl:0", "package-0", "")  # there, and not to be read
    assert cpu_counter(tmp_path, tmp_path) is None


def test_a_jetsons_power_monitor_is_integrated_while_it_is_watched(tmp_path):
    monitor = tmp_path / "hwmon3"
    monitor.mkdir()
    for file, text in (("in1_label", "VDD_IN"), ("in1_input", 5000), ("curr1_input", 2000),
                       ("in2_label", "VDD_CPU_GPU_CV"), ("in2_input", 1), ("curr2_input", 1)):
        (monitor / file).write_text(f"{text}\n")
    found = energy(Engine(), IMAGES, board_counter(tmp_path), seconds=0.2)
    watts = found["millijoules"] * 4 * found["runs"] / 1e3 / found["seconds"]
    assert 0 < watts <= 10.5 and found["counter"] == "INA VDD_IN"  # 5 V at 2 A, but for the last reading's tail


class NVMLError(Exception):
    pass


def refused(*_):
    raise NVMLError


def driver(**answers):
    """NVML's names as nvidia-ml-py has them; what is not given is not supported by this GPU."""
    names = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage",
             "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetCurrentClocksThrottleReasons",
             "nvmlDeviceGetComputeRunningProcesses")
    return SimpleNamespace(NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
                           nvmlDeviceGetHandleByIndex=lambda index: index, **{**dict.fromkeys(names, refused), **answers})


def test_the_names_that_are_asked_of_nvml_are_those_of_the_package():
    import pynvml

    assert all(hasattr(pynvml, name) for name in vars(driver()))


def test_a_gpus_own_counter_is_in_millijoules_and_an_old_gpu_has_none():
    ticks = itertools.count(1000, 250)
    counter = gpu_counter(driver(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(ticks)))
    assert counter.joules() - counter.joules() == pytest.approx(-0.25)
    assert gpu_counter(driver()) is None


def test_a_gpu_says_how_it_stands_as_far_as_it_can():
    nvml = driver(nvmlDeviceGetClockInfo=lambda handle, kind: {1: 1410, 2: 1215}[kind],
                  nvmlDeviceGetPowerUsage=lambda handle: 61_500)
    assert gpu_settings(nvml) == {"gpu_mhz": 1410, "gpu_memory_mhz": 1215, "gpu_watts": 61.5}


def test_a_slowed_gpu_and_other_processes_on_it_are_causes_each_told_once():
    nvml = driver(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x4 | 0x40 | 0x1,  # 0x1: idle, no fault
                  nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in (1, 2, 3)])
    assert gpu_causes(nvml) == ["the GPU's clock was lowered by its power limit",
                                "the GPU's clock was lowered by its heat (hardware)",
                                "2 other processes computed on the GPU"]
    watch, rounds = Watch(nvml=nvml), []
    after = watch.each_round(lambda: rounds.append(1))
    after(), after()
    assert len(rounds) == 2 and len(watch.of_gpu) == 3
    assert gpu_causes(driver()) == []

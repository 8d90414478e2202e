"""Energy of a run by counters of every kind, as the kernel and the driver show them."""

import numpy as np
import pytest

from toolchain.runner.energy import Counter, board_counter, cpu_counter, energy

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
    counter = cpu_counter(tmp_path)
    before = counter.joules()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("200000\n")  # 0.3 J later
    (tmp_path / "intel-rapl:1/energy_uj").write_text("150000\n")
    assert counter.joules() - before == pytest.approx(0.35) and counter.name == "RAPL package-0, package-1"


def test_a_machine_without_a_counter_has_none(tmp_path):
    assert cpu_counter(tmp_path) is None and board_counter(tmp_path) is None
    rapl(tmp_path / "intel-rapl:0", "package-0", "")  # there, and not to be read
    assert cpu_counter(tmp_path) is None


def monitor(folder, *rails):
    """An INA3221: (label, millivolts, milliamperes) of each channel."""
    folder.mkdir()
    for channel, (label, volts, amperes) in enumerate(rails, 1):
        for file, text in ((f"in{channel}_label", label), (f"in{channel}_input", volts), (f"curr{channel}_input", amperes)):
            (folder / file).write_text(f"{text}\n")


@pytest.mark.parametrize(("rails", "watts", "name"), [
    ([("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 1, 1)], 10, "INA VDD_IN"),  # Orin NX
    ([("VDD_GPU_SOC", 20_000, 200), ("VDD_CPU_CV", 20_000, 100), ("VIN_SYS_5V0", 5000, 800)], 10,
     "INA VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),  # AGX Orin: no rail feeds all of it
])
def test_a_jetsons_power_monitor_is_integrated_while_it_is_watched(tmp_path, rails, watts, name):
    monitor(tmp_path / "hwmon3", *rails)
    found = energy(Engine(), IMAGES, board_counter(tmp_path), seconds=0.2)
    taken = found["millijoules"] * 4 * found["runs"] / 1e3 / found["seconds"]
    assert 0 < taken <= 1.05 * watts and found["counter"] == name  # all but the last reading's tail


def test_a_rail_that_feeds_a_part_of_the_module_is_no_counter(tmp_path):
    monitor(tmp_path / "hwmon3", ("VDD_GPU_SOC", 20_000, 200), ("VIN_SYS_5V0", 5000, 800))
    assert board_counter(tmp_path) is None

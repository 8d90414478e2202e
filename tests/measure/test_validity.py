"""Whether a latency can be trusted: rules on made-up counters, and a load that is really there."""

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from toolchain.measure.validity import snapshot, trusted_ms
from toolchain.report.schema import EngineResult
from toolchain.report.validity import Validity, told
from toolchain.runner.conditions import Counters, Watch, causes, drift, own_gap, settings, throttles, waited_s
from toolchain.runner.probe import power_mode

FLAT = np.full((6, 4), 2.0)


def watch(other=0.0, waited=0.0, throttles=(0, 0), name="e"):
    """Two bursts of one second on one thread, with `other` cores kept busy by others and `waited` s in the run queue."""
    seen = Watch()
    for start in (0.0, 1.0):
        pairs = [Counters(at, at, at * (1 + other), at * waited, throttles[int(at > 0)]) for at in (start, start + 1)]
        seen.bursts.setdefault(name, []).append((pairs[0], pairs[1]))
    return seen


def test_a_quiet_measurement_has_no_causes():
    assert causes("e", {"e": FLAT, "again": FLAT * 1.04}, watch(0.2, 0.04), 1, 2, ("again", "e")) == []


@pytest.mark.parametrize(("seen", "cores", "word"), [
    (watch(other=0.4), 2, "other processes kept 0.4 of 2 cores busy"),
    (watch(other=1.5), 64, "1.5 of 64 cores"),
    (watch(waited=0.2), 2, "stood aside for others 20 % of the time"),
    (watch(throttles=(3, 4)), 2, "the machine was slowed down for its heat"),
    (watch(throttles=(None, None)), 2, None), (watch(other=1.2), 64, None), (watch(throttles=(7, 7)), 2, None),
])
def test_what_others_did_meanwhile_is_a_cause(seen, cores, word):
    found = causes("e", {"e": FLAT}, seen, 1, cores)
    assert found == [] if word is None else len(found) == 1 and word in found[0]


def test_two_threads_share_the_time_that_was_waited():
    assert watch(waited=0.2).waited_share("e", 2) == pytest.approx(0.1)
    assert watch(waited=0.2).other_cores() == 0 and watch(other=0.4).other_cores() == pytest.approx(0.4)


def test_an_engine_that_differs_from_itself_is_inconclusive():
    assert own_gap(FLAT, FLAT * 1.06) == pytest.approx(0.06)
    (cause,) = causes("e", {"e": FLAT, "again": FLAT * 1.06}, watch(), 1, 2, ("again", "e"))
    assert "against itself came out 0.94 times as slow" in cause


def test_rounds_that_grow_slower_are_inconclusive():
    slower = np.repeat([[1.0], [1.0], [1.1], [1.1], [1.3], [1.3]], 4, axis=1)
    assert drift(slower) == pytest.approx(0.3) and drift(slower[::-1]) == pytest.approx(1 / 1.3 - 1)
    (cause,) = causes("e", {"e": slower}, watch(), 1, 2)
    assert "1.30 times as long as its first" in cause


def test_what_the_kernel_tells_is_read_and_what_it_does_not_tell_is_left_out(tmp_path):
    cpu, thermal = tmp_path / "cpu", tmp_path / "thermal"
    for core, (governor, khz, hot) in enumerate([("powersave", 1_200_000, 3), ("performance", 2_400_000, 4)]):
        (cpu / f"cpu{core}/cpufreq").mkdir(parents=True)
        (cpu / f"cpu{core}/thermal_throttle").mkdir()
        (cpu / f"cpu{core}/cpufreq/scaling_governor").write_text(governor + "\n")
        (cpu / f"cpu{core}/cpufreq/scaling_cur_freq").write_text(f"{khz}\n")
        (cpu / f"cpu{core}/thermal_throttle/core_throttle_count").write_text(f"{hot}\n")
    (thermal / "thermal_zone0").mkdir(parents=True)
    (thermal / "thermal_zone0/temp").write_text("61500\n")
    gpu, hwmon, none = tmp_path / "17000000.gpu", tmp_path / "hwmon1", tmp_path / "none"
    for folder, file, number in ((gpu, "cur_freq", 918_000_000), (gpu, "min_freq", 918_000_000),
                                 (gpu, "max_freq", 918_000_000), (hwmon, "oc3_event_cnt", 2)):
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(f"{number}\n")
    found = settings(cpu, thermal, tmp_path)
    assert found.pop("load") >= 0
    assert found == {"governor": "performance, powersave", "mhz": 2400, "celsius": 61.5, "gpu_mhz": 918, "fixed_clocks": True}
    (gpu / "max_freq").write_text("1300500000")
    assert settings(cpu, thermal, tmp_path)["fixed_clocks"] is False
    assert throttles(cpu, none) == 7 and throttles(cpu, tmp_path) == 9  # and a Jetson's events of too much current
    assert set(settings(none, none, none)) == {"load"} and throttles(none, none) is None


def test_a_jetson_is_asked_for_its_power_mode_and_other_machines_have_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() is None
    (tmp_path / "nvpmodel").write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    (tmp_path / "nvpmodel").chmod(0o755)
    assert power_mode() == "MAXN_SUPER"
    (tmp_path / "nvpmodel").write_text("#!/bin/sh\necho 'NVPM ERROR: no such file'\n")
    assert power_mode() is None


def test_threads_that_end_meanwhile_are_no_reason_to_know_nothing(tmp_path):
    for task, text in (("1", "9 2000000000 3\n"), ("2", "9 500000000 3\n")):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(text)
    assert waited_s(tmp_path) == pytest.approx(2.5)
    (tmp_path / "3").mkdir()
    assert waited_s(tmp_path) is None  # no thread has the file: this kernel does not count
    assert waited_s(tmp_path / "none") is None


class Sleeper:
    """An engine of 2 ms. tired: how much slower it is on every later run."""

    def __init__(self, tired=0.0):
        self.ms, self.tired = 2.0, tired

    def time_ms(self, images, runs):
        self.ms += self.tired
        return np.full(runs, self.ms)


def test_an_inconclusive_measurement_is_made_again_and_then_reported_as_such():
    how = {"warmup": 1, "rounds": 6, "runs": 2, "seed": 0, "threads": 1, "attempts": 3}
    samples, validity = trusted_ms({"steady": Sleeper(), "tired": Sleeper(tired=1.0)}, dict.fromkeys(("steady", "tired"), np.zeros(1)), **how)
    assert set(samples) == {"steady", "tired"}  # the second name of `steady` is gone
    assert validity["tired"]["verdict"] == "inconclusive" and validity["tired"]["attempts"] == 3
    assert any("as long as its first" in cause for cause in validity["tired"]["causes"])
    assert not any("as long as its first" in cause for cause in validity["steady"]["causes"])


def test_a_load_that_is_really_there_is_found():
    """As many busy processes as there are cores."""
    code = "print(1, flush=True)\nwhile True: pass"
    loads = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(psutil.cpu_count())]
    try:
        for load in loads:
            assert load.stdout.readline()
        seen = Watch()
        for _ in range(5):
            with seen.around("e"):
                start = time.perf_counter()
                while time.perf_counter() - start < 0.2:
                    pass
    finally:
        for load in loads:
            load.kill()
    found = causes("e", {"e": FLAT}, seen, 1, psutil.cpu_count())
    assert any("other processes kept" in cause for cause in found)
    if snapshot().waited_s is not None:
        assert any("stood aside" in cause for cause in found)


def engine(name, causes=()):
    validity = Validity(verdict="inconclusive" if causes else "valid", causes=list(causes), attempts=2)
    return EngineResult(name=name, precision="fp32", runtime="onnxruntime", target="cpu_x86", measured=True, validity=validity)


def test_the_report_names_the_engines_and_each_kind_of_cause_once():
    assert told([engine("a")]) is None
    some = told([engine("a"), engine("b", ["others 12 % of it"]), engine("c", ["others 40 % of it", "heat"])])
    assert "of b, c is inconclusive, after 2 measurements: others up to 40 % of it; heat." in some
    assert "of every engine" in told([engine("b", ["heat"])])


def test_a_verdict_without_its_causes_is_no_report():
    with pytest.raises(ValueError, match="exactly where there are causes"):
        Validity(verdict="inconclusive")

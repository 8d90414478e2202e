"""What a machine does while engines are timed, from the kernel's own counters, and whether the result can be trusted.

Three questions are asked of every measurement, here and where engines are built. Did others compute meanwhile (run
queues, other processes' CPU time), or was the machine held back? Does an engine timed against itself, in the same
rounds and under another name, come out as fast (an A/A test)? And are the last rounds as fast as the first? All of it
is read outside the timed runs. Ratios within rounds survive much of this, milliseconds do not.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .kernel import number, text
from .nvml import card
from .probe import CPUS, governor, power_mode

if TYPE_CHECKING:
    from numpy import ndarray

STAT, TASKS = Path("/proc/stat"), Path("/proc/self/task")
THERMAL, HWMON, DEVFREQ = (Path("/sys/class") / name for name in ("thermal", "hwmon", "devfreq"))
JETSON_GPU = ("*gpu*", "*ga10b*", "*gv11b*", "*gp10b*")  # what the kernels of Jetsons call its clock
HELD_BACK = re.compile("cpufreq|devfreq|throttle-alert|^Processor$")  # cooling devices that are no fans
BUSY = (0, 1, 2, 5, 6, 7)  # of /proc/stat's cpu line: user, nice, system, irq, softirq, steal
LARGEST_GAP = 0.05  # of an engine to itself
LARGEST_DRIFT = 0.10  # of the last third of the rounds' median to the first third's
LARGEST_WAIT = 0.05  # share of a burst that threads stood aside for others
OTHER_CORES, OTHER_SHARE = 0.3, 0.02  # kept busy by others: cores, or this share of the machine's, where that is more


class Counters(NamedTuple):
    """Seconds since some fixed moment: of the clock, of this process's CPU time, of all processes', and that our
    threads could have run and did not; and how often a core was slowed down for its heat. None: not told."""

    wall_s: float
    own_s: float
    busy_s: float | None
    waited_s: float | None
    throttles: int | None


def counters() -> Counters:
    """As they stand."""
    own, ticks = os.times(), os.sysconf("SC_CLK_TCK")
    try:
        spent = STAT.read_text().splitlines()[0].split()[1:]
        busy = sum(int(spent[i]) for i in BUSY if i < len(spent)) / ticks
    except (OSError, ValueError, IndexError):
        busy = None
    return Counters(time.perf_counter(), own.user + own.system, busy, waited_s(), throttles())


def waited_s(folder: Path = TASKS) -> float | None:
    """Seconds that the live threads have stood in a run queue (sched-stats of the Linux kernel, in nanoseconds)."""
    total = 0
    try:
        for task in folder.iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                if not (folder / str(os.getpid()) / "schedstat").exists():
                    return None
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def throttles(cpus: Path = CPUS, hwmon: Path = HWMON) -> int | None:
    """How often a core has been slowed down for its heat, or a Jetson's module for the current it drew, since the
    machine started; None where neither is counted."""
    counts = [number(path) for path in (*cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"),
                                         *hwmon.glob("hwmon*/oc*_event_cnt"))]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def cooling(thermal: Path = THERMAL) -> list[str]:
    """What the kernel holds back now to cool the machine ("gpu-throttle-alert", "cpufreq-cpu0"); fans are no matter."""
    return [f"the kernel held back {kind} for its heat"
            for kind in sorted({text(path / "type") for path in thermal.glob("cooling_device*")
                                if (number(path / "cur_state") or 0) > 0}) if HELD_BACK.search(kind)]


def settings(cpus: Path = CPUS, thermal: Path = THERMAL, devfreq: Path = DEVFREQ) -> dict[str, Any]:
    """How the machine is set up, without what it does not tell.

    governor: of the CPU's clock, all that are in use. mhz: the clock now, highest of all cores. celsius: the hottest
    sensor of the system. power_mode: of a Jetson, as nvpmodel calls it. gpu_mhz: of its GPU. fixed_clocks: whether
    clocks cannot change, as jetson_clocks sets them. load: average of one minute.
    """
    gpus = [path for word in JETSON_GPU for path in sorted(devfreq.glob(word))]
    clocks = [number(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    heat = [number(path) for path in thermal.glob("thermal_zone*/temp")]
    ranges = [(number(path / f"{kind}min_freq"), number(path / f"{kind}max_freq"))
              for kind, paths in (("scaling_", cpus.glob("cpu[0-9]*/cpufreq")), ("", gpus)) for path in paths]
    ends = [pair for pair in ranges if None not in pair]
    found = {
        "governor": governor(cpus), "power_mode": power_mode(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "mhz": max((round(clock / 1e3) for clock in clocks if clock is not None), default=None),
        "celsius": max((round(degrees / 1e3, 1) for degrees in heat if degrees is not None), default=None),
        "gpu_mhz": next((round(hertz / 1e6) for hertz in map(number, (path / "cur_freq" for path in gpus)) if hertz),
                        None),
        "fixed_clocks": all(low == high for low, high in ends) if ends else None,
    }
    return {name: value for name, value in found.items() if value is not None}


class Watch:
    """Adds up what happened around the bursts of each engine. read: the counters. gpu: the GPU is asked too."""

    def __init__(self, read: Callable[[], Counters] = counters, gpu: bool = False) -> None:
        self.read, self.card = read, card() if gpu else None
        self.bursts: dict[str, list[tuple[Counters, Counters]]] = {}
        self.held_back: dict[str, None] = {}  # causes, each once, of the machine
        self.of_gpu: dict[str, None] = {}  # and of its GPU

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Take the counters before and after a burst of the engine `name`."""
        before = self.read()
        yield
        self.bursts.setdefault(name, []).append((before, self.read()))

    def round_ended(self) -> None:
        """Ask what holds the machine back at this moment."""
        self.held_back.update(dict.fromkeys(cooling()))
        self.of_gpu.update(dict.fromkeys(self.card.causes() if self.card else ()))

    def other_cores(self) -> float:
        """Cores that others kept busy, on average from the first burst to the last; 0 where that is not told."""
        first, last = self._ends()
        if first.busy_s is None or last.busy_s is None or last.wall_s <= first.wall_s:
            return 0.0
        return max(0.0, last.busy_s - first.busy_s - (last.own_s - first.own_s)) / (last.wall_s - first.wall_s)

    def waited_share(self, name: str, threads: int) -> float:
        """Share of its bursts that the engine's threads stood aside for others, 0 to 1; 0 where that is not told."""
        pairs = self.bursts[name]
        waited = sum(after.waited_s - before.waited_s for before, after in pairs
                     if after.waited_s is not None and before.waited_s is not None)
        wall = sum(after.wall_s - before.wall_s for before, after in pairs)
        return min(1.0, max(0.0, waited) / (wall * threads)) if wall > 0 else 0.0

    def throttled(self) -> bool:
        """Whether anything was slowed down for its heat or its current meanwhile."""
        first, last = self._ends()
        return first.throttles is not None and last.throttles is not None and last.throttles > first.throttles

    def _ends(self) -> tuple[Counters, Counters]:
        pairs = [pair for of_engine in self.bursts.values() for pair in of_engine]
        return min(before for before, _ in pairs), max(after for _, after in pairs)


def drift(samples: ndarray) -> float:
    """Median of the last third of the rounds over that of the first third, minus 1. samples: (rounds, runs) ms."""
    third = max(1, len(samples) // 3)
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)


def own_gap(samples: ndarray, again: ndarray) -> float:
    """How much slower an engine came out the second time: the median ratio of its rounds' medians, minus 1."""
    return float(np.median(np.median(again, axis=1) / np.median(samples, axis=1)) - 1)


def causes(
    name: str, samples: Mapping[str, ndarray], watch: Watch, threads: int, cores: int,
    own: tuple[str, str] | None = None, on_gpu: bool = False,
) -> list[str]:
    """Why the latency of the engine `name` is inconclusive, in words; empty: it is valid.

    samples: (rounds, runs) milliseconds by engine. threads: of a CPU engine. cores: of the machine, logical. own: the
    two names of the one engine that was timed twice. on_gpu: a GPU runs it, and one thread waits for it.
    """
    found, others = [], watch.other_cores()
    if others > max(OTHER_CORES, OTHER_SHARE * cores):
        found.append(f"other processes kept {others:.1f} of {cores} cores busy")
    waited = watch.waited_share(name, 1 if on_gpu else threads)
    if waited > LARGEST_WAIT:
        found.append(f"its threads stood aside for others {100 * waited:.0f} % of the time")
    if watch.throttled():
        found.append("the machine was slowed down for its heat, or for the current it drew")
    found += [*watch.held_back, *(watch.of_gpu if on_gpu else ())]
    if own and abs(gap := own_gap(samples[own[0]], samples[own[1]])) > LARGEST_GAP:
        found.append(f"an engine timed against itself came out {1 + gap:.2f} times as slow")
    if abs(change := drift(samples[name])) > LARGEST_DRIFT:
        found.append(f"its last rounds took {1 + change:.2f} times as long as its first")
    return found

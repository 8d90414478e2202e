"""What a device does while engines are timed, from the kernel's own counters, and whether the result can be trusted.

The questions and their limits are those of a measurement anywhere in this project: did others compute meanwhile, does
an engine timed against itself come out as fast, and are the last rounds as fast as the first?
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .probe import CPUS, governor, power_mode

if TYPE_CHECKING:
    from numpy import ndarray

STAT, TASKS, THERMAL = Path("/proc/stat"), Path("/proc/self/task"), Path("/sys/class/thermal")
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
    heat = [_number(path) for path in CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = [int(count) for count in heat if count is not None]
    return Counters(time.perf_counter(), own.user + own.system, busy, _waited_s(), sum(known) if known else None)


def _waited_s() -> float | None:
    total = 0
    try:
        for task in TASKS.iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended, or no such counter
                if not (TASKS / str(os.getpid()) / "schedstat").exists():
                    return None
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def settings() -> dict[str, Any]:
    """{"governor", "mhz", "celsius", "power_mode", "load"}, without what the machine does not tell."""
    clocks = [_number(path) for path in CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    heat = [_number(path) for path in THERMAL.glob("thermal_zone*/temp")]
    found = {"governor": governor(), "power_mode": power_mode(), "load": round(os.getloadavg()[0], 2),
             "mhz": max((round(clock / 1e3) for clock in clocks if clock is not None), default=None),
             "celsius": max((round(degrees / 1e3, 1) for degrees in heat if degrees is not None), default=None)}
    return {name: value for name, value in found.items() if value is not None}


class Watch:
    """Adds up what happened around the bursts of each engine."""

    def __init__(self) -> None:
        self.bursts: dict[str, list[tuple[Counters, Counters]]] = {}

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Take the counters before and after a burst of the engine `name`."""
        before = counters()
        yield
        self.bursts.setdefault(name, []).append((before, counters()))

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
        """Whether a core was slowed down for its heat meanwhile."""
        first, last = self._ends()
        return first.throttles is not None and last.throttles is not None and last.throttles > first.throttles

    def _ends(self) -> tuple[Counters, Counters]:
        pairs = [pair for of_engine in self.bursts.values() for pair in of_engine]
        return min(before for before, _ in pairs), max(after for _, after in pairs)


def causes(
    name: str, samples: Mapping[str, ndarray], watch: Watch, threads: int, cores: int, own: tuple[str, str]
) -> list[str]:
    """Why the latency of the engine `name` is inconclusive, in words; empty: it is valid.

    samples: (rounds, runs) milliseconds by engine. own: the two names of the one engine that was timed twice.
    """
    found, others = [], watch.other_cores()
    if others > max(OTHER_CORES, OTHER_SHARE * cores):
        found.append(f"other processes kept {others:.1f} of {cores} cores busy")
    waited = watch.waited_share(name, threads)
    if waited > LARGEST_WAIT:
        found.append(f"its threads stood aside for others {100 * waited:.0f} % of the time")
    if watch.throttled():
        found.append("the CPU was slowed down for its heat")
    first, second = (np.median(samples[one], axis=1) for one in own)
    gap = float(np.median(second / first)) - 1
    if abs(gap) > LARGEST_GAP:
        found.append(f"an engine timed against itself came out {1 + gap:.2f} times as slow")
    times = samples[name]
    third = max(1, len(times) // 3)
    change = float(np.median(times[-third:]) / np.median(times[:third]) - 1)
    if abs(change) > LARGEST_DRIFT:
        found.append(f"its last rounds took {1 + change:.2f} times as long as its first")
    return found


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None

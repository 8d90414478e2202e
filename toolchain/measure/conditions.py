"""What a machine does while engines are timed: who else computes, how its clocks stand, whether it throttles.

All of it is read outside the timed runs, from the kernel's own counters; what a machine does not tell is None.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from toolchain.measure.nvml import gpu_causes

CPU, THERMAL, PROC = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal"), Path("/proc/self/task")


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment, all since some fixed moment before.

    wall_s: the clock. own_s: CPU seconds of this process. busy_s: of all processes on all cores, and of a hypervisor's
    other guests (steal). waited_s: seconds that threads of this process could have run and did not, another having
    their core; None where the kernel does not count it. throttles: thermal events of all cores.
    """

    wall_s: float
    own_s: float
    busy_s: float
    waited_s: float | None
    throttles: int | None


def snapshot() -> Snapshot:
    """The counters now."""
    times, own = psutil.cpu_times(), os.times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return Snapshot(time.perf_counter(), own.user + own.system, busy, waited_s(), throttles())


def waited_s(folder: Path = PROC) -> float | None:
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


def throttles(folder: Path = CPU) -> int | None:
    """How often any core has been slowed down for its heat since the machine started; None where it is not counted."""
    counts = [_number(path) for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def settings(cpu: Path = CPU, thermal: Path = THERMAL) -> dict[str, Any]:
    """How the machine is set up: {"governor", "mhz", "celsius", "power_mode"}, without what it does not tell.

    governor: of the CPU's clock, all that are in use. mhz: the clock now, highest of all cores. celsius: the hottest
    sensor of the system. power_mode: of a Jetson, as nvpmodel calls it.
    """
    governors = sorted({path.read_text().strip() for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")})
    clocks = [_number(path) for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    heat = [_number(path) for path in thermal.glob("thermal_zone*/temp")]
    found = {
        "governor": ", ".join(governors) or None,
        "mhz": max((round(clock / 1e3) for clock in clocks if clock is not None), default=None),
        "celsius": max((round(degrees / 1e3, 1) for degrees in heat if degrees is not None), default=None),
        "power_mode": power_mode(),
    }
    return {name: value for name, value in found.items() if value is not None}


def power_mode() -> str | None:
    """What `nvpmodel -q` of a Jetson says ("MAXN", "15W"); None on other machines."""
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        told = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", told)
    return found.group(1) if found else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


@dataclass
class Watch:
    """Adds up what happened around the bursts of each engine; `around` goes about each of them.

    nvml: the pynvml module where a GPU is to be asked too. of_gpu: what it told, in words, each once.
    """

    bursts: dict[str, list[tuple[Snapshot, Snapshot]]] = field(default_factory=dict)
    nvml: Any = None
    of_gpu: dict[str, None] = field(default_factory=dict)

    def each_round(self, advance: Callable[[], None]) -> Callable[[], None]:
        """`advance`, and a look at the GPU."""
        def after() -> None:
            advance()
            self.of_gpu.update(dict.fromkeys(gpu_causes(self.nvml) if self.nvml else ()))

        return after

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Take the counters before and after a burst of the engine `name`."""
        before = snapshot()
        yield
        self.bursts.setdefault(name, []).append((before, snapshot()))

    def waited_share(self, name: str, threads: int) -> float | None:
        """Share of its bursts that the engine's threads stood aside for others, 0 to 1; None where not known."""
        pairs = self.bursts[name]
        waited = [after.waited_s - before.waited_s for before, after in pairs
                  if after.waited_s is not None and before.waited_s is not None]
        wall = sum(after.wall_s - before.wall_s for before, after in pairs)
        return min(1.0, max(0.0, sum(waited)) / (wall * threads)) if waited and wall > 0 else None

    def other_cores(self) -> float:
        """Cores that others kept busy, on average from the first burst to the last."""
        first, last = self._ends()
        wall = last.wall_s - first.wall_s
        return max(0.0, (last.busy_s - first.busy_s) - (last.own_s - first.own_s)) / wall if wall > 0 else 0.0

    def seconds(self) -> float:
        """From the first burst to the last."""
        first, last = self._ends()
        return last.wall_s - first.wall_s

    def throttled(self) -> bool:
        """Whether a core was slowed down for its heat meanwhile."""
        first, last = self._ends()
        return first.throttles is not None and last.throttles is not None and last.throttles > first.throttles

    def _ends(self) -> tuple[Snapshot, Snapshot]:
        pairs = [pair for of_engine in self.bursts.values() for pair in of_engine]
        return (min((before for before, _ in pairs), key=lambda s: s.wall_s),
                max((after for _, after in pairs), key=lambda s: s.wall_s))

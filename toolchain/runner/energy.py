"""Energy of one run, where the device counts it: RAPL of x86 CPUs, NVML of NVIDIA GPUs, INA power monitors of Jetsons.

The engine runs back to back for a second and what the counter gained is shared out over the runs. It is all that the
counted part of the device took meanwhile, idle power included; a counter is never read inside a timed run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .kernel import number, text
from .nvml import card

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy import ndarray

POWERCAP, HWMON = Path("/sys/class/powercap"), Path("/sys/class/hwmon")
# what Jetsons call the rails that feed the whole module: Orin NX, Orin Nano, Xavier NX; Nano; AGX Orin, which has three
WHOLE_MODULE = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
SECONDS = 1.0
TICK_S = 0.01  # between two readings of a power monitor


class Counter(NamedTuple):
    """Joules that one part of the device has taken, since some moment. watching: a context in which `joules` counts."""

    name: str
    joules: Callable[[], float]
    watching: Callable[[], AbstractContextManager[None]] = nullcontext


def energy(engine: Any, images: ndarray, counter: Counter, seconds: float = SECONDS) -> dict[str, Any]:
    """{"millijoules": of one image, "counter", "runs", "seconds"} of running one batch (n, C, H, W) again and again."""
    engine.time_ms(images, 1)
    runs, start = 0, time.perf_counter()
    with counter.watching():
        before = counter.joules()
        while (spent := time.perf_counter() - start) < seconds:
            engine.time_ms(images, 10)
            runs += 10
        taken = counter.joules() - before
    return {"millijoules": 1e3 * taken / (runs * len(images)), "counter": counter.name, "runs": runs,
            "seconds": round(spent, 3)}


def counter(on_gpu: bool) -> Counter | None:
    """What an engine on the GPU, or on the CPU, is charged to; None where this machine has none that may be read."""
    return (gpu_counter() if on_gpu else cpu_counter()) or board_counter()


def cpu_counter(powercap: Path = POWERCAP) -> Counter | None:
    """RAPL, of all processor packages."""
    packages = [zone for zone in sorted(powercap.glob("intel-rapl:*"))
                if text(zone / "name").startswith("package") and number(zone / "energy_uj") is not None]
    names = ", ".join(text(zone / "name") for zone in packages)
    return Counter(f"RAPL {names}", _rapl(packages)) if packages else None


def gpu_counter() -> Counter | None:
    """The GPU's own."""
    found = card()
    return Counter("NVML", lambda: found.joules() or 0.0) if found is not None and found.joules() is not None else None


def board_counter(hwmon: Path = HWMON) -> Counter | None:
    """A Jetson's INA3221 on the rails that feed the whole module."""
    rails = {text(label): tuple(label.with_name(label.name.replace("label", "input").replace("in", kind, 1))
                                 for kind in ("in", "curr")) for label in sorted(hwmon.glob("hwmon*/in*_label"))}
    for names in WHOLE_MODULE:
        monitors = [rails[name] for name in names if name in rails]
        if len(monitors) == len(names) and all(number(file) is not None for pair in monitors for file in pair):
            return _integrated("INA " + " + ".join(names), partial(_watts, monitors))
    return None


def _rapl(packages: list[Path]) -> Callable[[], float]:
    """Joules of all packages; a counter that has wrapped around goes on from its range."""
    spans = [number(zone / "max_energy_range_uj") or 0.0 for zone in packages]
    last = [number(zone / "energy_uj") or 0.0 for zone in packages]
    gone = [0.0] * len(packages)

    def joules() -> float:
        for index, zone in enumerate(packages):
            now = number(zone / "energy_uj") or 0.0
            gone[index] += now - last[index] + (spans[index] if now < last[index] else 0.0)
            last[index] = now
        return sum(gone) / 1e6

    return joules


def _integrated(name: str, watts: Callable[[], float]) -> Counter:
    """A counter made of a power monitor, which is read by a thread while it is watched."""
    total = [0.0]

    @contextmanager
    def watching() -> Iterator[None]:
        done = threading.Event()

        def sample() -> None:
            then, power = time.perf_counter(), watts()
            while not done.wait(TICK_S):
                now, later = time.perf_counter(), watts()
                total[0] += (now - then) * (power + later) / 2
                then, power = now, later

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    return Counter(name, lambda: total[0], watching)


def _watts(monitors: Sequence[Sequence[Path]]) -> float:
    """Of (voltage, current) files, in millivolts and milliamperes."""
    return sum((number(volts) or 0.0) * (number(amperes) or 0.0) for volts, amperes in monitors) / 1e6

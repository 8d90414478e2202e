"""What this device has: Python, numpy, runtimes, GPU, and how it is set up. What it does not tell is None."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .answers import Failed, plain
from .cuda import gpu
from .kernel import text
from .place import Place
from .tidy import size_bytes

RUNTIMES = ("onnxruntime", "tensorrt")
JETPACK = {35: "5", 36: "6", 38: "7"}  # major release of L4T -> JetPack
L4T, CPUS = Path("/etc/nv_tegra_release"), Path("/sys/devices/system/cpu")


def probe(place: Place) -> dict[str, Any]:
    """Everything, as JSON-able facts; nothing is changed."""
    found, broken = runtimes()
    card, release = gpu(), l4t()
    return {
        "python": platform.python_version(), "executable": sys.executable, "machine": platform.machine(),
        "cpu": cpu_name(), "cores": cores(), "numpy": _version("numpy"), "pillow": _version("PIL"),
        "runtimes": found, "broken": broken, "providers": providers() if "onnxruntime" in found else [],
        "gpu": card, "sm": card and card["sm"], "l4t": release and release[0], "jetpack": release and release[1],
        "power_mode": power_mode(), "governor": governor(), "memory_bytes": memory_bytes(),
        "free_bytes": place.free_bytes(), "folder": str(place.root), "folder_bytes": size_bytes(place.root),
    }


def device() -> dict[str, Any]:
    """What a bundle asks of a device: {"machine", "sm", "runtimes"}."""
    card = gpu()
    return {"machine": platform.machine(), "sm": card and card["sm"], "runtimes": runtimes()[0]}


@lru_cache(maxsize=1)
def runtimes() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of those that can be imported, and why the others that are installed cannot."""
    found, broken = {}, {}
    for name in RUNTIMES:
        try:
            found[name] = str(import_module(name).__version__)
        except ModuleNotFoundError as error:
            if error.name != name:
                broken[name] = plain(str(error))
        except Exception as error:  # a library that does not load, a placeholder package
            broken[name] = plain(f"{type(error).__name__}: {error}")[:300]
    return found, broken


def runtime(name: str) -> Any:
    """The module of a runtime. Raises Failed where it is not installed here, or does not load."""
    if name not in RUNTIMES:
        raise Failed(f"found the runtime '{name}', expected {' or '.join(RUNTIMES)} on a device")
    found, broken = runtimes()
    if name in broken:
        raise Failed(f"{name} is installed for {sys.executable}, but cannot be imported: {broken[name]}")
    if name not in found:
        raise Failed(f"{name} is not installed for {sys.executable} ({platform.python_version()}); "
                     f"found {', '.join(found) or 'no runtime'}")
    return import_module(name)


def need_numpy() -> None:
    """Raise Failed where numpy is not installed."""
    if not device_has("numpy"):
        raise Failed(f"numpy is not installed for {sys.executable} ({platform.python_version()}); install it there, or "
                     "name the Python that has it")


def providers() -> list[str]:
    """What onnxruntime can compute on."""
    return list(import_module("onnxruntime").get_available_providers())


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The model of the CPU, or of the board where the kernel tells only that."""
    for path, words in (("/proc/cpuinfo", ("model name", "hardware")), ("/proc/device-tree/model", ())):
        for line in text(Path(path)).replace("\0", "").splitlines():
            if not words:
                return line.strip()
            if line.lower().startswith(words):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def l4t(path: Path = L4T) -> tuple[str, str | None] | None:
    """("36.4.3", "6"): release of a Jetson's system, and which JetPack it belongs to."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text(path))
    return (f"{found.group(1)}.{found.group(2)}", JETPACK.get(int(found.group(1)))) if found else None


def power_mode() -> str | None:
    """What `nvpmodel -q` of a Jetson says ("MAXN", "15W")."""
    program = shutil.which("nvpmodel") or shutil.which("nvpmodel", path="/usr/sbin")
    if program is None:
        return None
    try:
        told = subprocess.run([program, "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", told.decode("utf-8", "replace"))
    return found.group(1) if found else None


def governor(folder: Path = CPUS) -> str | None:
    """Of the CPU's clock, all that are in use."""
    names = {text(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    return ", ".join(sorted(names)) or None


def memory_bytes() -> int | None:
    """Of the machine."""
    found = re.search(r"MemTotal:\s*(\d+) kB", text(Path("/proc/meminfo")))
    return int(found.group(1)) << 10 if found else None



def device_has(module: str) -> bool:
    """Whether it can be imported here."""
    return _version(module) is not None


def _version(module: str) -> str | None:
    try:
        return str(import_module(module).__version__)
    except Exception:  # absent, or it does not load
        return None

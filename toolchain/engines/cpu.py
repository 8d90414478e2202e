"""The CPU that CPU engines are built and timed on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def default_threads() -> int:
    """Physical cores we may use: hyper-threads, the affinity mask and a container's CPU quota are taken off."""
    limits = [psutil.cpu_count(logical=False) or 1, os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = cpu_quota()
    return max(1, min([*limits, int(quota)] if quota else limits))


def cores() -> int:
    """Logical cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """CPUs that the control group grants ("200000 100000" -> 2.0); None: no limit, or no such file."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else max(1.0, int(quota) / int(period))
    except (OSError, ValueError):
        return None


def cpu_target() -> str:
    """The rules that suit this machine's CPU: cpu_arm for 64-bit ARM, else cpu_x86."""
    return "cpu_arm" if platform.machine().lower() in ("aarch64", "arm64") else "cpu_x86"


def not_this_cpu(target: str) -> str | None:
    """Why an engine for the CPU `target` is not measured here; None where it is for this CPU, or for no CPU."""
    other = target.startswith("cpu_") and target != cpu_target()
    return f"this CPU is {platform.machine()}, {target} wants another" if other else None


def cpu_name() -> str:
    """The model name of this machine's CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

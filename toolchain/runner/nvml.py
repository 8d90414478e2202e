"""What NVIDIA's driver tells of a GPU beside the timed runs: clocks, heat, power, energy, slowdowns, other processes.

Through ctypes, as a device brings no Python package for it. Where a Jetson has no NVML, there is no card.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from .cuda import uuid

LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
# reasons for a clock below what was asked for (nvmlClocksEventReasons), as far as they spoil a measurement
REASONS = {0x4: "its power limit", 0x8: "hardware slowdown", 0x20: "its heat (software)", 0x40: "its heat (hardware)",
           0x80: "a power brake"}
SM_CLOCK, MEMORY_CLOCK, ON_THE_DIE = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU
ROOM_FOR_NONE = 7  # NVML_ERROR_INSUFFICIENT_SIZE: how many there are is told nevertheless


class Card:
    """One GPU, as NVML shows it. library: NVML, initialized."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self.library, self.handle = library, handle

    def _told(self, name: str, kind: Any, *which: int) -> int | None:
        call, value = getattr(self.library, name, None), kind()
        if call is None or call(self.handle, *map(ctypes.c_int, which), ctypes.byref(value)) != 0:
            return None
        return int(value.value)

    def settings(self) -> dict[str, Any]:
        """{"gpu_mhz", "gpu_memory_mhz", "gpu_celsius", "gpu_watts"} now, without what this GPU does not tell."""
        milliwatts = self._told("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        found = {
            "gpu_mhz": self._told("nvmlDeviceGetClockInfo", ctypes.c_uint, SM_CLOCK),
            "gpu_memory_mhz": self._told("nvmlDeviceGetClockInfo", ctypes.c_uint, MEMORY_CLOCK),
            "gpu_celsius": self._told("nvmlDeviceGetTemperature", ctypes.c_uint, ON_THE_DIE),
            "gpu_watts": None if milliwatts is None else milliwatts / 1e3,
        }
        return {name: value for name, value in found.items() if value is not None}

    def causes(self) -> list[str]:
        """Why a latency measured on the GPU now would be inconclusive, in words."""
        mask = self._told("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong) or 0
        found = [f"the GPU's clock was lowered by {why}" for bit, why in REASONS.items() if mask & bit]
        others = self._processes() - 1  # one is ours, by whatever number
        if others > 0:
            found.append(f"{others} other process{'es' if others > 1 else ''} computed on the GPU")
        return found

    def joules(self) -> float | None:
        """Taken since the driver was loaded (Volta and later); None where it is not counted."""
        millijoules = self._told("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return None if millijoules is None else millijoules / 1e3

    def _processes(self) -> int:
        for name in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2",
                     "nvmlDeviceGetComputeRunningProcesses"):
            call, count = getattr(self.library, name, None), ctypes.c_uint(0)
            if call is not None and call(self.handle, ctypes.byref(count), None) in (0, ROOM_FOR_NONE):
                return int(count.value)
        return 0


@lru_cache(maxsize=1)
def card() -> Card | None:
    """The GPU that engines run on here; None without one, or where NVML does not know it."""
    name = uuid()
    for library in LIBRARIES if name else ():
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            continue
        handle = ctypes.c_void_p()
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByUUID(str(name).encode(), ctypes.byref(handle)) == 0:
            return Card(nvml, handle)
    return None

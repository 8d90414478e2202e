"""What NVIDIA's driver tells of a GPU beside the timed runs: clocks, heat, power, slowdowns, other processes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

# NVML's reasons for a clock below what was asked for (nvmlClocksEventReasons), as far as they spoil a measurement
REASONS = {0x4: "its power limit", 0x8: "hardware slowdown", 0x20: "its heat (software)", 0x40: "its heat (hardware)",
           0x80: "a power brake"}


def opened_nvml() -> Any | None:
    """The pynvml module, initialised; None without it or without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: there is no GPU to ask
        return None
    return pynvml


def gpu_settings(nvml: Any, index: int = 0) -> dict[str, Any]:
    """{"gpu_mhz", "gpu_memory_mhz", "gpu_celsius", "gpu_watts"} now, without what this GPU does not tell."""
    found: dict[str, Any] = {}
    with suppress(nvml.NVMLError):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        for name, ask in (
            ("gpu_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("gpu_memory_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            ("gpu_celsius", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            ("gpu_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
        ):
            with suppress(nvml.NVMLError):
                found[name] = ask()
    return found


def gpu_causes(nvml: Any, index: int = 0) -> list[str]:
    """Why a latency measured on the GPU now would be inconclusive, in words."""
    causes: list[str] = []
    with suppress(nvml.NVMLError):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        with suppress(nvml.NVMLError):
            mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            causes += [f"the GPU's clock was lowered by {why}" for bit, why in REASONS.items() if mask & bit]
        with suppress(nvml.NVMLError):
            others = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1  # one is ours, by whatever number
            if others > 0:
                causes.append(f"{others} other processes computed on the GPU")
    return causes

"""Which NVIDIA GPUs this machine has: asked from the driver itself, without torch, CUDA runtime or nvidia-smi."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

NO_GPU = "no GPU"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One visible GPU. sm: compute capability times ten (86 for 8.6). driver: its version, or the CUDA it offers."""

    name: str
    sm: int
    driver: str


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible; empty without a driver. Creates no CUDA context."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = _driver_version() or f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_gpu(cuda, ordinal, driver) for ordinal in range(count.value))


def _gpu(cuda: ctypes.CDLL, ordinal: int, driver: str) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value, driver)


def _driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    try:
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", path.read_text(errors="replace"))
    except OSError:
        return None
    return found.group(1) if found else None

"""The few calls of NVIDIA's driver that finding a GPU and running an engine need, through ctypes: libcuda is on every
machine with a GPU, and JetPack brings no Python package for it. The context is the GPU's primary one, which TensorRT
uses too.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from .answers import Failed

if TYPE_CHECKING:
    from numpy import ndarray

LIBRARIES = ("libcuda.so.1", "libcuda.so", "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",
             "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1")
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
ADDRESS, SIZE, HANDLE = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p


@lru_cache(maxsize=1)
def library() -> Any:
    """The driver, initialized; None where there is none, or no GPU for it."""
    for name in LIBRARIES:
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        return found if found.cuInit(0) == 0 else None
    return None


def gpu() -> dict[str, Any] | None:
    """{"name", "sm", "memory_bytes", "cuda": version the driver serves} of the first GPU; None: there is none."""
    cuda = library()
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    name, memory = ctypes.create_string_buffer(200), SIZE()
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceGetAttribute", ctypes.byref(major), MAJOR, device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), MINOR, device)
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    call("cuDriverGetVersion", ctypes.byref(version))
    return {"name": name.value.decode("utf-8", "replace"), "sm": 10 * major.value + minor.value,
            "memory_bytes": memory.value, "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}"}


def uuid() -> str | None:
    """Of the first GPU that this process sees ("GPU-…", as NVML calls it); None: there is none."""
    cuda, device, told = library(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    ask = getattr(cuda, "cuDeviceGetUuid", None)
    return f"GPU-{UUID(bytes=bytes(told))}" if ask is not None and ask(told, device) == 0 else None


def call(name: str, *values: Any) -> None:
    """One call of the driver. Raises Failed with what the driver says of it."""
    cuda = library()
    if cuda is None:
        raise Failed("there is no NVIDIA GPU on this device, or its driver is not running")
    code = getattr(cuda, name)(*values)
    if code:
        told = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(told))
        raise Failed(f"CUDA: {name} failed with {(told.value or b'').decode() or code}")


@lru_cache(maxsize=1)
def begin() -> None:
    """Make the first GPU's primary context this thread's."""
    device, context = ctypes.c_int(), HANDLE()
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)


class Buffer:
    """Device memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        pointer = ADDRESS()
        call("cuMemAlloc_v2", ctypes.byref(pointer), SIZE(max(1, size)))
        self.size, self.pointer = size, int(pointer.value)

    def free(self) -> None:
        """Give the memory back."""
        if self.pointer:
            call("cuMemFree_v2", ADDRESS(self.pointer))
            self.pointer = 0


class Stream:
    """A stream of its own, with two events to time what lies between them."""

    def __init__(self) -> None:
        self.handle, self.events = HANDLE(), (HANDLE(), HANDLE())
        call("cuStreamCreate", ctypes.byref(self.handle), 0)
        for event in self.events:
            call("cuEventCreate", ctypes.byref(event), 0)

    @property
    def number(self) -> int:
        """As TensorRT's Python calls take it."""
        return int(self.handle.value or 0)

    def copy_in(self, buffer: Buffer, array: ndarray) -> None:
        """Queue the copy of a contiguous host array to the start of `buffer`."""
        call("cuMemcpyHtoDAsync_v2", ADDRESS(buffer.pointer), HANDLE(array.ctypes.data), SIZE(array.nbytes),
             self.handle)

    def copy_out(self, array: ndarray, buffer: Buffer) -> None:
        """Queue the copy from the start of `buffer` into a contiguous host array."""
        call("cuMemcpyDtoHAsync_v2", HANDLE(array.ctypes.data), ADDRESS(buffer.pointer), SIZE(array.nbytes),
             self.handle)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        call("cuStreamSynchronize", self.handle)

    def start(self) -> None:
        """Queue the first event."""
        call("cuEventRecord", self.events[0], self.handle)

    def stop_ms(self) -> float:
        """Queue the second event, wait for it, and return the milliseconds between the two."""
        call("cuEventRecord", self.events[1], self.handle)
        call("cuEventSynchronize", self.events[1])
        elapsed = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(elapsed), *self.events)
        return float(elapsed.value)

    def close(self) -> None:
        """End events and stream."""
        for event in self.events:
            call("cuEventDestroy_v2", event)
        call("cuStreamDestroy_v2", self.handle)

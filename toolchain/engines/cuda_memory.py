"""The few CUDA runtime calls that running an engine needs, through NVIDIA's own bindings (no torch)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import EngineError, MissingPackage

try:
    from cuda.bindings import runtime as cudart
except ImportError:
    try:
        from cuda import cudart  # cuda-python before 12.6, as on older JetPacks
    except ImportError:
        raise MissingPackage("running a TensorRT engine needs the package 'cuda-bindings': pip install cuda-python "
                             "(the version of this machine's CUDA)") from None


def check(answer: tuple[Any, ...], what: str) -> Any:
    """The value of a CUDA call's (error, value) answer. Raises EngineError naming `what` when the call failed."""
    error, *values = answer
    if error != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA: {what} failed with {getattr(error, 'name', error)}")
    return values[0] if len(values) == 1 else values


class Buffer:
    """Device memory of a fixed size in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pointer = int(check(cudart.cudaMalloc(max(1, size)), f"allocating {size} bytes"))

    def free(self) -> None:
        """Give the memory back."""
        if self.pointer:
            check(cudart.cudaFree(self.pointer), "freeing device memory")
            self.pointer = 0


def copy_in(buffer: Buffer, array: NDArray[Any], stream: Any) -> None:
    """Queue the copy of a contiguous host array to the start of `buffer`."""
    kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
    check(cudart.cudaMemcpyAsync(buffer.pointer, array.ctypes.data, array.nbytes, kind, stream), "copying to the GPU")


def copy_out(array: NDArray[Any], buffer: Buffer, stream: Any) -> None:
    """Queue the copy from the start of `buffer` into a contiguous host array."""
    kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
    check(cudart.cudaMemcpyAsync(array.ctypes.data, buffer.pointer, array.nbytes, kind, stream), "copying from the GPU")


def create_stream() -> Any:
    """A CUDA stream; end it with `destroy_stream`."""
    return check(cudart.cudaStreamCreate(), "creating a stream")


def destroy_stream(stream: Any) -> None:
    """End a stream."""
    check(cudart.cudaStreamDestroy(stream), "destroying a stream")


def synchronize(stream: Any) -> None:
    """Wait until everything queued on `stream` is done."""
    check(cudart.cudaStreamSynchronize(stream), "running the engine")


def free_bytes() -> int:
    """Free memory of the current GPU."""
    return int(check(cudart.cudaMemGetInfo(), "reading the free memory")[0])


class Stopwatch:
    """Two CUDA events around work on one stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.events = [check(cudart.cudaEventCreate(), "creating an event") for _ in range(2)]

    def start(self) -> None:
        """Queue the first event."""
        check(cudart.cudaEventRecord(self.events[0], self.stream), "recording an event")

    def stop_ms(self) -> float:
        """Queue the second event, wait for it, and return the milliseconds between the two."""
        check(cudart.cudaEventRecord(self.events[1], self.stream), "recording an event")
        check(cudart.cudaEventSynchronize(self.events[1]), "running the engine")
        return float(check(cudart.cudaEventElapsedTime(*self.events), "timing"))

    def close(self) -> None:
        """End both events."""
        for event in self.events:
            check(cudart.cudaEventDestroy(event), "destroying an event")
        self.events = []


def host_empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A contiguous float32 array in ordinary (pageable) host memory."""
    return np.empty(shape, np.float32)

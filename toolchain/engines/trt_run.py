"""TensorRT engines on a GPU: opened, run and timed with CUDA events. Serves tensorrt 10.x, 11.x and tensorrt_rtx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.engines import cuda_memory as cuda
from toolchain.engines.batching import check_batch, check_input, in_batches
from toolchain.engines.protocol import Images, Logits
from toolchain.engines.record import EngineRecord
from toolchain.engines.trt_package import import_package, make_logger
from toolchain.errors import EngineError


class TrtEngine:
    """One engine with one execution context, one stream, and device buffers for the largest batch."""

    def __init__(self, record: EngineRecord, path: Path) -> None:
        self.record = record
        self.free_before = cuda.free_bytes()
        trt = import_package(record.runtime).trt
        self.log = make_logger(trt)
        self.runtime = trt.Runtime(self.log)
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise EngineError(f"{path}: {record.runtime} {trt.__version__} cannot open it (built by "
                              f"{record.runtime_version} for {record.device}): {' | '.join(self.log.errors)[:300]}")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise EngineError(f"{path}: no execution context: {' | '.join(self.log.errors)[:300]}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) != 2:
            raise EngineError(f"{path}: found tensors {', '.join(names)}, expected one input and one output")
        self.input, self.output = inputs[0], next(n for n in names if n not in inputs)
        for name in names:
            if self.engine.get_tensor_dtype(name) != trt.float32:
                raise EngineError(f"{path}: {name} is {self.engine.get_tensor_dtype(name).name}, expected float32")
        self.input_shape = tuple(self.engine.get_tensor_shape(self.input))
        fixed = self.input_shape[0]
        smallest, largest = fixed, fixed
        if fixed == -1:
            low, _, high = self.engine.get_tensor_profile_shape(self.input, 0)
            smallest, largest = low[0], high[0]
        self.batches: tuple[int, int | None] = (smallest, largest)
        classes = self.engine.get_tensor_shape(self.output)[-1]
        sizes = [4 * largest * int(np.prod(self.input_shape[1:])), 4 * largest * classes]  # float32 in and out
        self.buffers = [cuda.Buffer(size) for size in sizes]
        self.stream = cuda.create_stream()
        self.context.set_tensor_address(self.input, self.buffers[0].pointer)
        self.context.set_tensor_address(self.output, self.buffers[1].pointer)

    def _shape(self, images: Images) -> NDArray[np.float32]:
        """Set the input's shape; returns an empty host array for the logits."""
        if not self.context.set_input_shape(self.input, tuple(images.shape)):
            raise EngineError(f"{self.record.name}: it does not take images of shape {images.shape}")
        return cuda.host_empty(tuple(self.context.get_tensor_shape(self.output)))

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(int(self.stream)):
            raise EngineError(f"{self.record.name}: it could not be run: {' | '.join(self.log.errors[-3:])}")

    def _run(self, images: Images) -> Logits:
        logits = self._shape(images)
        cuda.copy_in(self.buffers[0], images, self.stream)
        self._enqueue()
        cuda.copy_out(logits, self.buffers[1], self.stream)
        cuda.synchronize(self.stream)
        return logits

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) of images (N, C, H, W). Raises EngineError."""
        check_input(self.record.name, images, self.input_shape)
        return in_batches(self._run, np.ascontiguousarray(images, np.float32), self.batches)

    def time_ms(self, images: Images, runs: int) -> NDArray[np.float64]:
        """(runs,) milliseconds between CUDA events around the enqueue; the batch already lies on the GPU."""
        check_input(self.record.name, images, self.input_shape)
        check_batch(self.record.name, images, self.batches)
        self._run(np.ascontiguousarray(images, np.float32))
        watch = cuda.Stopwatch(self.stream)
        samples = np.empty(runs)
        for i in range(runs):
            watch.start()
            self._enqueue()
            samples[i] = watch.stop_ms()
        watch.close()
        return samples

    def transfer_ms(self, images: Images, runs: int) -> NDArray[np.float64] | None:
        """(runs, 2) milliseconds of copying the batch in and its logits out, from and to ordinary host memory."""
        images = np.ascontiguousarray(images, np.float32)
        logits = self._run(images)
        watch = cuda.Stopwatch(self.stream)
        samples = np.empty((runs, 2))
        for i in range(runs):
            watch.start()
            cuda.copy_in(self.buffers[0], images, self.stream)
            samples[i, 0] = watch.stop_ms()
            watch.start()
            cuda.copy_out(logits, self.buffers[1], self.stream)
            samples[i, 1] = watch.stop_ms()
        watch.close()
        return samples

    def device_bytes(self) -> int | None:
        """GPU memory taken since the engine was opened, in bytes (other processes on the GPU count too)."""
        return max(0, self.free_before - cuda.free_bytes())

    def close(self) -> None:
        """Give back buffers and stream, then the context before the engine it belongs to."""
        for buffer in self.buffers:
            buffer.free()
        cuda.destroy_stream(self.stream)
        del self.context, self.engine, self.runtime


@contextmanager
def open_engine(record: EngineRecord, path: Path) -> Iterator[TrtEngine]:
    """Yield the engine on the current GPU; its memory is given back at the end."""
    engine = TrtEngine(record, path)
    try:
        yield engine
    finally:
        engine.close()

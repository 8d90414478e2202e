"""TensorRT 10.3 to 11.x on a device (JetPack 6 and 7): build from a Q/DQ ONNX file, open, run, time.

Only the strongly typed path is used, which all of them share: precision lies in the ONNX file, never in flags. What is
called stands in NEEDED, and what has another name in another version in NAMES, so that both can be held against what a
version really offers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cuda
from .answers import Failed, plain
from .place import write

if TYPE_CHECKING:
    from numpy import ndarray

NEEDED: dict[str, tuple[str, ...]] = {  # class -> what of it is used
    "ILogger": ("INTERNAL_ERROR", "ERROR", "WARNING"),
    "IProgressMonitor": (),
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "INetworkDefinition": ("num_inputs", "num_outputs", "num_layers", "get_input", "get_layer"),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "IBuilderConfig": ("clear_flag", "set_flag", "set_memory_pool_limit", "add_optimization_profile",
                       "create_timing_cache", "set_timing_cache", "get_timing_cache", "progress_monitor"),
    "BuilderFlag": ("TF32", "SPARSE_WEIGHTS"),
    "MemoryPoolType": ("WORKSPACE",),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape",
                    "get_tensor_profile_shape", "create_execution_context"),
    "IExecutionContext": ("set_tensor_address", "set_input_shape", "get_tensor_shape", "execute_async_v3"),
    "TensorIOMode": ("INPUT",),
}
NAMES: dict[str, tuple[str, ...]] = {  # of an ICudaEngine: the newest name first
    "device_memory_bytes": ("device_memory_size_v2", "device_memory_size"),
}
UNSIGNED, SHIFTED = "Defaulting to INT8", "Non-zero zero point is not supported"  # said of Q/DQ it cannot compute


def usable(trt: Any) -> Any:
    """`trt`, if it has all that is called. Raises Failed naming what it lacks (TensorRT 8 and 9, a placeholder)."""
    lacking = [f"{kind}.{name}" if name else kind for kind, names in NEEDED.items() for name in ("", *names)
               if not hasattr(getattr(trt, kind, None) if name else trt, name or kind)]
    if lacking:
        raise Failed(f"tensorrt {getattr(trt, '__version__', '?')} is not one that engines are built with here: it "
                     f"lacks {', '.join(lacking[:3])}; expected 10.3 to 11.x, as JetPack 6 and 7 have it")
    return trt


def build(
    trt: Any, onnx: Path, target: Path, engine: Mapping[str, Any], timing_cache: Path,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Write the engine of the file `onnx` for this GPU to `target`; returns {"runtime_version", "layers"}.

    engine: {"name", "batch": {"min", "opt", "max"} or None, "workspace_mb", "sparse"}. timing_cache: kernel timings of
    earlier builds, which make this one quick and choose the same kernels. Raises Failed with the builder's reason.
    """
    cuda.begin()
    log = logger(usable(trt))
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parsed(trt, network, log, onnx, engine["name"])
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; TF32 keeps 10 bits of the fraction
    if engine.get("sparse"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if engine.get("workspace_mb"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, engine["workspace_mb"] << 20)
    _allow_batches(builder, network, config, engine)
    _remember(config, timing_cache)
    monitor = _monitor(trt, progress)  # kept in a variable: the builder holds no reference of its own
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise Failed(f"{engine['name']}: tensorrt {trt.__version__} could not build it: "
                     f"{plain(' | '.join(log.errors))[:600] or 'it gave no reason'}")
    target.write_bytes(bytes(serialized))
    cache = config.get_timing_cache()
    if cache is not None:
        write(timing_cache, bytes(cache.serialize()))
    layers = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        output = layer.get_output(0)
        layers.append({"name": layer.name, "op": layer.type.name, "dtype": output.dtype.name if output else None,
                       "shape": list(output.shape) if output and len(output.shape) >= 0 else None})
    return {"runtime_version": str(trt.__version__), "layers": layers}


def _remember(config: Any, timing_cache: Path) -> None:
    """Give the builder what it measured before; a file that it does not take (damaged, of another GPU) is forgotten."""
    for known in (timing_cache.read_bytes() if timing_cache.is_file() else b"", b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _parsed(trt: Any, network: Any, log: Any, onnx: Path, name: str) -> None:
    parser = trt.OnnxParser(network, log)
    read = parser.parse(onnx.read_bytes())
    told = "\n".join(log.lines)
    if UNSIGNED in told or SHIFTED in told:
        raise Failed(f"{name}: tensorrt {trt.__version__} has symmetric INT8 only, and its file holds uint8 or a "
                     "zero_point that is not 0; ship an engine of runtime tensorrt or tensorrt_rtx")
    if not read:
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        words = dict.fromkeys(map(_say, errors))
        raise Failed(f"{name}: tensorrt {trt.__version__} cannot read it: {plain('; '.join(words))[:600]}")
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise Failed(f"{name}: found {network.num_inputs} inputs and {network.num_outputs} outputs, expected one input "
                     "(images) and one output (logits)")


def _say(error: Any) -> str:
    place = f" at {error.node_operator()} (node '{error.node_name()}')" if error.node_operator() else ""
    return f"{error.desc()}{place}"


def _allow_batches(builder: Any, network: Any, config: Any, engine: Mapping[str, Any]) -> None:
    given = network.get_input(0)
    shape = tuple(given.shape)
    if shape[0] != -1:
        return
    batch = engine.get("batch") or {"min": 1, "opt": 1, "max": 1}
    profile = builder.create_optimization_profile()
    profile.set_shape(given.name, *((batch[end], *shape[1:]) for end in ("min", "opt", "max")))
    config.add_optimization_profile(profile)


def logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps errors in `.errors`, and warnings and errors in `.lines`."""

    class Lines(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append(message)

    return Lines()


def _monitor(trt: Any, progress: Callable[[float], None]) -> Any:
    """Tells the share of the steps of all phases that it has heard of which are done; it never cancels."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.done: dict[str, int] = {}
            self.told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = max(1, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.done[phase_name] = step + 1
            share = min(1.0, sum(self.done.values()) / max(1, sum(self.steps.values())))
            if share >= self.told + 0.02:
                self.told = share
                progress(share)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.done[phase_name] = self.steps.get(phase_name, 1)

    return Monitor()


class Session:
    """One engine with one execution context, one stream, and device buffers for the largest batch."""

    on_gpu = True

    def __init__(self, trt: Any, name: str, path: Path) -> None:
        cuda.begin()
        self.name, self.log = name, logger(usable(trt))
        self.runtime = trt.Runtime(self.log)
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        self.context: Any = None if self.engine is None else self.engine.create_execution_context()
        if self.context is None:
            raise Failed(f"{name}: tensorrt {trt.__version__} cannot open it: "
                         f"{plain(' | '.join(self.log.errors))[:300] or 'it gave no reason'}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [one for one in names if self.engine.get_tensor_mode(one) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) != 2 or any(self.engine.get_tensor_dtype(n) != trt.float32 for n in names):
            raise Failed(f"{name}: found tensors {', '.join(names)}, expected one input and one output of float32")
        self.input, self.output = inputs[0], next(one for one in names if one not in inputs)
        self.input_shape = tuple(self.engine.get_tensor_shape(self.input))
        low = high = self.input_shape[0]
        if low == -1:
            shapes = self.engine.get_tensor_profile_shape(self.input, 0)
            low, high = shapes[0][0], shapes[2][0]
        self.batches = (low, high)
        classes = self.engine.get_tensor_shape(self.output)[-1]
        self.stream = cuda.Stream()
        self.buffers = [cuda.Buffer(4 * high * count) for count in (int(np.prod(self.input_shape[1:])), classes)]
        for tensor, buffer in zip((self.input, self.output), self.buffers):
            self.context.set_tensor_address(tensor, buffer.pointer)

    def device_memory_bytes(self) -> int | None:
        """What an execution context takes of the GPU's memory."""
        found = [getattr(self.engine, name, None) for name in NAMES["device_memory_bytes"]]
        return next((int(size) for size in found if size is not None), None)

    def run(self, images: ndarray) -> ndarray:
        """Logits of one batch: copied in, computed, copied out."""
        if not self.context.set_input_shape(self.input, tuple(images.shape)):
            raise Failed(f"{self.name}: it does not take images of shape {images.shape}")
        logits = np.empty(tuple(self.context.get_tensor_shape(self.output)), np.float32)
        self.stream.copy_in(self.buffers[0], images)
        self._enqueue()
        self.stream.copy_out(logits, self.buffers[1])
        self.stream.synchronize()
        return logits

    def time_ms(self, images: ndarray, runs: int) -> ndarray:
        """(runs,) milliseconds between CUDA events around the enqueue; the batch already lies on the GPU."""
        self.run(images)
        samples = np.empty(runs)
        for i in range(runs):
            self.stream.start()
            self._enqueue()
            samples[i] = self.stream.stop_ms()
        return samples

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.number):
            raise Failed(f"{self.name}: it could not be run: {plain(' | '.join(self.log.errors[-3:]))[:300]}")

    def close(self) -> None:
        """Give back buffers and stream, then the context before the engine it belongs to."""
        for buffer in self.buffers:
            buffer.free()
        self.stream.close()
        del self.context, self.engine, self.runtime

"""ONNX Runtime sessions: opened, run and timed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from toolchain.engines.batching import check_batch, check_input, in_batches
from toolchain.engines.cpu import cpu_name, default_threads
from toolchain.engines.gpu import gpus
from toolchain.engines.open_shape import filled
from toolchain.engines.protocol import Images, Logits
from toolchain.engines.record import EngineRecord, describe, write_record
from toolchain.errors import EngineError
from toolchain.files import write_bytes

SILENT = 4  # only fatal lines: what goes wrong reaches the user as our one-line error
# use_tf32 off: an fp32 engine computes in fp32
PROVIDERS: dict[str, list[Any]] = {
    "cpu_x86": ["CPUExecutionProvider"],
    "cpu_arm": ["CPUExecutionProvider"],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}


def session_options(threads: int | None) -> ort.SessionOptions:
    """Every graph optimization on (INT8 fusion needs them), `threads` for one operator, one operator at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    # else it rounds the inputs of INT4 linear layers to INT8 (level 4), which weight-only promises not to do
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Threads that go on spinning after a run would slow the next engine of an interleaved measurement. Waking them
    # costs each run some 10 to 40 us, the same for every precision.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def create_session(path: Path, target: str, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on `path`. Raises EngineError with the runtime's reason."""
    try:
        session = ort.InferenceSession(str(path), options, providers=PROVIDERS[target])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise EngineError(f"{path}: ONNX Runtime {ort.__version__} refuses it: {short_reason(error)}") from None
    if PROVIDERS[target][0][0] == "CUDAExecutionProvider" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise EngineError(f"{path}: ONNX Runtime {ort.__version__} could not start its CUDA provider; "
                          "install the CUDA and cuDNN libraries it was built for")
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise EngineError(f"{path}: found {len(session.get_inputs())} inputs and {len(session.get_outputs())} outputs, "
                          "expected one input (images) and one output (logits)")
    if session.get_inputs()[0].type != "tensor(float)":
        raise EngineError(f"{path}: its input is {session.get_inputs()[0].type}, expected tensor(float)")
    return session


def short_reason(error: Exception) -> str:
    """The one sentence of an ONNX Runtime error that says what is wrong, without source locations and local paths."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", str(error).strip())
    text = re.sub(r"^Load model from .*? failed:\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\S*/\S+:\d+ [^\n]*?\) ?", "", text)
    return " ".join(text.split())[:300] or type(error).__name__


class OrtEngine:
    """One open session."""

    def __init__(self, record: EngineRecord, path: Path, threads: int | None) -> None:
        self.record = record
        self.session = create_session(path, record.target, session_options(threads))
        given = self.session.get_inputs()[0]
        self.input_name, self.output_name = given.name, self.session.get_outputs()[0].name
        self.input_shape = tuple(d if isinstance(d, int) else -1 for d in given.shape)
        fixed = self.input_shape[0]
        self.batches: tuple[int, int | None] = (1, None) if fixed == -1 else (fixed, fixed)

    def _run(self, images: Images) -> Logits:
        try:
            return self.session.run([self.output_name], {self.input_name: images})[0].astype(np.float32, copy=False)
        except Exception as error:
            raise EngineError(f"{self.record.name}: ONNX Runtime could not run it: {short_reason(error)}") from None

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) of images (N, C, H, W). Raises EngineError."""
        check_input(self.record.name, images, self.input_shape)
        return in_batches(self._run, np.ascontiguousarray(images, np.float32), self.batches)

    def time_ms(self, images: Images, runs: int) -> NDArray[np.float64]:
        """(runs,) milliseconds by the wall clock; on CUDA the batch and its logits stay on the GPU."""
        check_input(self.record.name, images, self.input_shape)
        check_batch(self.record.name, images, self.batches)
        images = np.ascontiguousarray(images, np.float32)
        binding = self.session.io_binding()
        device = "cuda" if self.record.target == "cuda" else "cpu"
        value = ort.OrtValue.ortvalue_from_numpy(images, device, 0)
        binding.bind_ortvalue_input(self.input_name, value)
        binding.bind_output(self.output_name, device)
        samples = np.empty(runs)
        for i in range(runs):
            start = time.perf_counter_ns()
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            samples[i] = (time.perf_counter_ns() - start) / 1e6
        return samples

    def transfer_ms(self, images: Images, runs: int) -> NDArray[np.float64] | None:
        """Copies are not timed apart by this runtime."""
        return None

    def device_bytes(self) -> int | None:
        """Unknown to this runtime."""
        return None


@contextmanager
def open_engine(record: EngineRecord, path: Path, threads: int | None) -> Iterator[OrtEngine]:
    """Yield the engine; its threads and memory are released at the end."""
    engine = OrtEngine(record, path, threads)
    try:
        yield engine
    finally:
        del engine.session


def build_engine(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any], compute: str, run_once: bool) -> Path:
    """Copy, open, record. run_once: also run one zero image, to record the layers that really run; info["image_size"]
    says how large where the file leaves it open."""
    engine = folder / "engine.onnx"
    write_bytes(engine, onnx_path.read_bytes())
    layers = realized_layers(engine, cfg.target, info.get("image_size")) if run_once else []
    if not run_once and cfg.target != "cuda":  # for another CPU: what it will fuse is unknown here, but it must open
        create_session(engine, cfg.target, session_options(threads=1))
    device = gpus()[0].name if cfg.target == "cuda" and gpus() else cpu_name() if run_once else cfg.target
    write_record(folder, describe(cfg, engine, onnx_path, info, compute=compute, runtime_version=ort.__version__,
                                  device=device, layers=layers))
    return engine


def realized_layers(path: Path, target: str, image_size: int | None = None) -> list[dict[str, Any]]:
    """[{name, op, dtype, shape}] in the order they ran, after ONNX Runtime's own fusions, for a batch of the smallest
    size: from the profile of one run, so it shows a QLinearConv only where INT8 arithmetic really happens.

    image_size: pixels of a side, for a file that leaves height and width open (its channels are 3 then)."""
    with TemporaryDirectory() as scratch:
        options = session_options(threads=1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = create_session(path, target, options)
        given = session.get_inputs()[0]
        shape = filled([d if isinstance(d, int) else -1 for d in given.shape], image_size, batch=1)
        if -1 in shape:
            raise EngineError(f"{path}: its input is {given.shape}, expected fixed channels, height and width")
        try:
            session.run(None, {given.name: np.zeros(shape, np.float32)})
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime {ort.__version__} cannot run it: {short_reason(error)}") from None
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return [_layer(event) for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def _layer(event: dict[str, Any]) -> dict[str, Any]:
    outputs = event["args"].get("output_type_shape") or [{}]
    dtype, shape = next(iter(outputs[0].items()), (None, None))
    return {"name": event["name"].removesuffix("_kernel_time"), "op": event["args"].get("op_name"), "dtype": dtype,
            "shape": shape}

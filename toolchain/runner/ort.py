"""ONNX Runtime on a device: the engine is the ONNX file itself."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Failed, plain
from .probe import cores

if TYPE_CHECKING:
    from numpy import ndarray

SILENT = 4  # only fatal lines
CUDA = "CUDAExecutionProvider"
PROVIDERS: dict[str, list[Any]] = {
    "cuda": [(CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"],  # an fp32 engine computes in fp32
    "cpu_arm": ["CPUExecutionProvider"], "cpu_x86": ["CPUExecutionProvider"],
}
SETTINGS = {"session.qdq_matmulnbits_accuracy_level": "1",  # weight-only linear layers round no activations
            "session.force_spinning_stop": "1"}  # threads that spin on would slow the next engine of a measurement


class OrtSession:
    """One session. on_gpu: who computes."""

    def __init__(self, ort: Any, target: str, path: Path, threads: int | None) -> None:
        self.ort, self.target = ort, target
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads, options.inter_op_num_threads = threads or cores(), 1
        for name, value in SETTINGS.items():
            options.add_session_config_entry(name, value)
        if target not in PROVIDERS:
            raise Failed(f"{path.name}: found the target '{target}', expected {', '.join(PROVIDERS)} for onnxruntime")
        try:
            self.session = ort.InferenceSession(str(path), options, providers=PROVIDERS[target])
        except Exception as error:  # its exceptions share no base class
            raise Failed(f"{path.name}: ONNX Runtime {ort.__version__} refuses it: {reason(error)}") from None
        if target == "cuda" and self.session.get_providers()[0] != CUDA:
            raise Failed(f"{path.name}: ONNX Runtime {ort.__version__} could not start its CUDA provider")
        given, made = self.session.get_inputs(), self.session.get_outputs()
        if len(given) != 1 or len(made) != 1 or given[0].type != "tensor(float)":
            raise Failed(f"{path.name}: found {len(given)} inputs and {len(made)} outputs, expected one input of "
                         "float32 (images) and one output (logits)")
        self.input, self.output = given[0].name, made[0].name
        self.input_shape = tuple(side if isinstance(side, int) else -1 for side in given[0].shape)
        fixed = self.input_shape[0]
        self.batches = (1, None) if fixed == -1 else (fixed, fixed)
        self.on_gpu = target == "cuda"

    def run(self, images: ndarray) -> ndarray:
        """Logits of one batch."""
        try:
            logits = self.session.run([self.output], {self.input: images})[0]
        except Exception as error:
            raise Failed(f"ONNX Runtime {self.ort.__version__} could not run it: {reason(error)}") from None
        result: ndarray = logits.astype(np.float32, copy=False)
        return result

    def time_ms(self, images: ndarray, runs: int) -> ndarray:
        """(runs,) milliseconds by the wall clock; on CUDA the batch and its logits stay on the GPU."""
        place, binding = "cuda" if self.target == "cuda" else "cpu", self.session.io_binding()
        value = self.ort.OrtValue.ortvalue_from_numpy(images, place, 0)
        binding.bind_ortvalue_input(self.input, value)
        binding.bind_output(self.output, place)
        samples = np.empty(runs)
        for i in range(runs):
            start = time.perf_counter_ns()
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            samples[i] = (time.perf_counter_ns() - start) / 1e6
        return samples

    def close(self) -> None:
        """Give back threads and memory."""
        del self.session


def reason(error: Exception) -> str:
    """The sentence of its error that says what is wrong, without source locations and local paths."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", str(error).strip())
    text = re.sub(r"^Load model from .*? failed:\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\S*/\S+:\d+ [^\n]*?\) ?", "", text)
    return plain(text)[:300] or type(error).__name__

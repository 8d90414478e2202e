"""Is the file still the network? Run it beside its predecessor on the same images and measure the gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from toolchain.errors import OnnxError
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.widen import HALF, widen

THREADS = 2
PROBE_SEED = 0
PROBE_VALUES = 8 * 3 * 64 * 64  # so many input values in all: 32 images of 32x32, or 1 of 224x224


def open_session(model: Path | bytes, optimize: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime CPU session. Raises OnnxError with its reason, naming the op it lacks."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # weight-only means FP32 inputs
    # what lies above EXTENDED lays weights out anew for speed, and takes three times the network's memory
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    try:
        source = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as wrong:  # onnxruntime's exceptions share no base class
        name = model if isinstance(model, Path) else "this network"
        raise OnnxError(f"{name}: onnxruntime cannot load it: {str(wrong).splitlines()[0][:300]}") from None


def run(path: Path, images: np.ndarray, optimize: bool = True) -> np.ndarray:
    """Logits (N, K) float32 of `images` (N, 3, S, S), fed in the file's own batch size or a few at a time.

    optimize: False runs the graph node by node as written (optimised ONNX Runtime gives wrong numbers for FP16 with
    Q/DQ, and drops a Relu before FP8 codes); a graph that computes in half is widened first.
    """
    model: Path | bytes = path
    if not optimize:
        graph = read_onnx(path)
        if any(value.dtype in HALF for value in graph.graph.initializers.values()):
            widen(graph)
            model = ir.to_proto(graph).SerializeToString()
    session = open_session(model, optimize)
    entry = session.get_inputs()[0]
    few = max(1, PROBE_VALUES // max(1, images[0].size)) if len(images) else 1  # large images take memory
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else min(len(images), few)
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
    outputs = [session.run(None, {entry.name: padded[i : i + batch]})[0] for i in range(0, len(padded), batch)]
    return np.concatenate(outputs)[: len(images)]


def probe_images(path: Path) -> np.ndarray:
    """Fixed N(0, 1) images (n, 3, S, S) of the size that the file's input asks for."""
    shape = read_onnx(path).graph.inputs[0].shape
    size = tuple(int(d) if isinstance(d, int) else 32 for d in (shape or [])[1:])
    count = max(1, min(32, PROBE_VALUES // int(np.prod(size))))
    return np.random.default_rng(PROBE_SEED).normal(size=(count, *size)).astype(np.float32)


def gap(reference: np.ndarray, candidate: np.ndarray, path: Path) -> dict[str, float]:
    """{"max_abs": largest |difference|, "relative": to the largest |reference|, "argmax_agreement": share in [0, 1]}.

    Raises OnnxError when logits are not finite, or the candidate's have another shape.
    """
    if reference.shape != candidate.shape:
        raise OnnxError(f"{path}: gives logits {candidate.shape}, its source {reference.shape}")
    if not np.isfinite(reference).all():
        raise OnnxError(f"{path}: its source's logits are NaN or infinite for these images, so it cannot be judged; "
                        "train again with a lower learning rate, or check data.mean and data.std")
    if not np.isfinite(candidate).all():
        raise OnnxError(f"{path}: its logits are NaN or infinite where its source's are not; an activation is beyond "
                        "what this precision can hold; use bf16 instead of fp16, or fp32")
    worst = float(np.abs(reference - candidate).max())
    largest = float(np.abs(reference).max())
    agreement = float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean())
    return {"max_abs": worst, "relative": worst / largest if largest else worst, "argmax_agreement": agreement}

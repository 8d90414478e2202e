"""ONNX Runtime: what it can build and run. The engine is the ONNX file itself, with the target's rules applied.

On a CPU, fp16 and bf16 are forms of storage: weights lie in half the bytes and are widened, arithmetic is fp32.
INT4 is weight-only everywhere. The CUDA provider has no INT8 convolutions, so quantized engines are refused for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.engines.gpu import NO_GPU, gpus
from toolchain.engines.record import verify
from toolchain.errors import EngineError, MissingPackage
from toolchain.recipe.schema import DEFAULT_PRECISIONS

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

PACKAGES: tuple[str, ...] = ("onnxruntime-gpu", "onnxruntime")
COMPUTE = {
    "cpu_x86": {"fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int8": "int8", "int4": "fp32"},
    "cuda": {"fp32": "fp32", "fp16": "fp16"},
}
RULES = {"cpu_x86": "cpu_x86", "cuda": "tensorrt"}  # on a GPU fp16 is computed in fp16, as for TensorRT


def missing() -> str | None:
    """None when a build of onnxruntime is importable, else the install line."""
    if find_spec("onnxruntime"):
        return None
    return "runtime 'onnxruntime' needs the package 'onnxruntime': pip install onnxruntime (onnxruntime-gpu for CUDA)"


def not_runnable(cfg: Any) -> str | None:
    """Target cuda needs a GPU and a build of onnxruntime with the CUDA provider."""
    if cfg.target != "cuda":
        return None
    if not gpus():
        return NO_GPU
    from onnxruntime import get_available_providers

    if "CUDAExecutionProvider" in get_available_providers():
        return None
    return "this onnxruntime has no CUDA provider: pip uninstall onnxruntime; pip install onnxruntime-gpu"


def refuse(cfg: Any) -> None:
    """Raise MissingPackage without onnxruntime; EngineError for a precision that the target would not compute in."""
    if reason := missing():
        raise MissingPackage(reason)
    if cfg.precision not in COMPUTE[cfg.target]:
        raise EngineError(f"engines: onnxruntime on target {cfg.target}: found precision {cfg.precision}, expected "
                          f"{' or '.join(COMPUTE[cfg.target])} (no {cfg.precision} convolutions there); "
                          "use runtime tensorrt_rtx or tensorrt")


def targets(cfg: Any) -> Any:
    """The target is written out already."""
    return cfg


def rules(cfg: Any) -> str:
    """The rule table that makes this engine's ONNX file."""
    return RULES[cfg.target]


def default_engines() -> list[dict[str, Any]]:
    """All five precisions on the CPU."""
    return [{"runtime": "onnxruntime", "precision": precision, "target": "cpu_x86"} for precision in DEFAULT_PRECISIONS]


def build(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
    """Copy the ONNX file into `folder` as engine.onnx, open it once, and record the layers ONNX Runtime made of it.

    Raises EngineError with the runtime's reason when it refuses the file.
    """
    refuse(cfg)
    from toolchain.engines.ort_session import build_engine

    compute = COMPUTE[cfg.target][cfg.precision]
    return build_engine(onnx_path, cfg, folder, info, compute, run_once=not_runnable(cfg) is None)


def load(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open an engine after checking its SHA-256. Raises DigestMismatch, EngineError, MissingPackage."""
    record, path = verify(folder)
    if reason := missing():
        raise MissingPackage(reason)
    if reason := not_runnable(record):
        raise EngineError(f"{path}: cannot run here: {reason}")
    from toolchain.engines.ort_session import open_engine

    return open_engine(record, path, threads)

"""ONNX Runtime: what it can build and run. The engine is the ONNX file itself, with the target's rules applied.

On a CPU, fp16 and bf16 are forms of storage: weights lie in half the bytes and are widened, arithmetic is fp32.
INT4 is weight-only everywhere, and no CPU has FP8. The CUDA provider has no INT8 convolutions, so quantized engines are
refused for it. A file for another CPU than this one's is built and opened, but neither timed nor judged.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.engines.cpu import cpu_target, not_this_cpu
from toolchain.engines.gpu import NO_GPU, gpus
from toolchain.engines.record import verify
from toolchain.errors import EngineError, MissingPackage
from toolchain.recipe.schema import DEFAULT_PRECISIONS

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

PACKAGES: tuple[str, ...] = ("onnxruntime-gpu", "onnxruntime")
ON_CPU = {"fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int8": "int8", "int8_weight_only": "fp32", "int4": "fp32",
          "mixed": "mixed"}
COMPUTE = {"cpu_x86": ON_CPU, "cpu_arm": ON_CPU, "cuda": {"fp32": "fp32", "fp16": "fp16"}}
# on a GPU fp16 is computed in fp16, as for TensorRT
RULES = {"cpu_x86": "cpu_x86", "cpu_arm": "cpu_arm", "cuda": "tensorrt"}


def missing() -> str | None:
    """None when a build of onnxruntime is importable, else the install line."""
    if find_spec("onnxruntime"):
        return None
    return "runtime 'onnxruntime' needs the package 'onnxruntime': pip install onnxruntime (onnxruntime-gpu for CUDA)"


def not_runnable(cfg: Any) -> str | None:
    """A CPU target needs that CPU; target cuda a GPU and a build of onnxruntime with the CUDA provider."""
    target = targets(cfg).target
    if target != "cuda":
        return not_this_cpu(target)
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
    target = targets(cfg).target
    if cfg.precision not in COMPUTE[target]:
        raise EngineError(f"engines: onnxruntime on target {target}: found precision {cfg.precision}, expected "
                          f"{' or '.join(COMPUTE[target])} (no {cfg.precision} convolutions there); "
                          "use runtime tensorrt_rtx or tensorrt")


def targets(cfg: Any) -> Any:
    """`cfg` with this machine's CPU where no target is named."""
    return cfg if cfg.target else cfg.model_copy(update={"target": cpu_target()})


def rules(cfg: Any) -> str:
    """The rule table that makes this engine's ONNX file."""
    return RULES[targets(cfg).target]


def default_engines() -> list[dict[str, Any]]:
    """The usual precisions on this machine's CPU."""
    return [{"runtime": "onnxruntime", "precision": p, "target": cpu_target()} for p in DEFAULT_PRECISIONS]


def build(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
    """Copy the ONNX file into `folder` as engine.onnx, open it once, and record the layers ONNX Runtime made of it.

    Raises EngineError with the runtime's reason when it refuses the file.
    """
    refuse(cfg)
    cfg = targets(cfg)
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

"""OpenVINO on x86 CPUs: what it can build and run. The engine is the ONNX file, compiled when it is loaded.

fp16 and integer weights without integer activations are forms of storage: they are widened when the file is compiled.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.engines.record import verify
from toolchain.errors import EngineError, MissingPackage

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

PACKAGES: tuple[str, ...] = ("openvino",)
# Its default hint is bf16 where the CPU has it, which would make "fp32" a bf16 engine: the hint is always given.
COMPUTE = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "int8", "int8_weight_only": "fp32", "int4": "fp32",
           "mixed": "mixed"}


def missing() -> str | None:
    """None when openvino is importable, else the install line."""
    return None if find_spec("openvino") else "runtime 'openvino' needs the package 'openvino': " \
        "pip install -e '.[openvino]'"


def not_runnable(cfg: Any) -> str | None:
    """A CPU is always there."""
    return None


def refuse(cfg: Any) -> None:
    """Raise MissingPackage without openvino; EngineError for fp8, and for bf16 on a CPU that would emulate it."""
    if reason := missing():
        raise MissingPackage(reason)
    if cfg.precision not in COMPUTE:
        raise EngineError(f"engines: openvino: found precision {cfg.precision}, expected {', '.join(COMPUTE)} (no "
                          f"CPU computes in {cfg.precision}: OpenVINO emulates it, slower than fp32)")
    if cfg.precision == "bf16" and "BF16" not in cpu_capabilities():
        raise EngineError(f"engines: openvino: found precision bf16, but this CPU offers only "
                          f"{', '.join(cpu_capabilities())}; use fp32 or int8")


def cpu_capabilities() -> list[str]:
    """What OpenVINO says this CPU computes in natively, such as ["BF16", "FP32", "INT8"]."""
    from toolchain.engines.openvino_session import capabilities

    return capabilities()


def targets(cfg: Any) -> Any:
    """The target is written out already."""
    return cfg


def rules(cfg: Any) -> str:
    """The rule table that makes this engine's ONNX file."""
    return "openvino"


def default_engines() -> list[dict[str, Any]]:
    """Every precision that this CPU computes in natively."""
    wanted = ["fp32", *(["bf16"] if "BF16" in cpu_capabilities() else []), "int8"]
    return [{"runtime": "openvino", "precision": precision, "target": "cpu_x86"} for precision in wanted]


def build(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
    """Copy the ONNX file into `folder` as engine.onnx, compile it once, and record the layers OpenVINO made of it.

    Raises EngineError with the runtime's reason when it refuses the file.
    """
    refuse(cfg)
    from toolchain.engines.openvino_session import build_engine

    return build_engine(onnx_path, cfg, folder, info, COMPUTE[cfg.precision])


def load(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open an engine after checking its SHA-256. Raises DigestMismatch, EngineError, MissingPackage."""
    record, path = verify(folder)
    if reason := missing():
        raise MissingPackage(reason)
    from toolchain.engines.openvino_session import open_engine

    return open_engine(record, path, threads)

"""TensorRT for RTX: engines built ahead of time for chosen SMs, on any machine; they run on one of these GPUs only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.engines.gpu import NO_GPU, gpus
from toolchain.engines.record import describe, verify, write_record
from toolchain.engines.rtx_support import DEFAULT, refuse_unsupported, sms_of, target_of
from toolchain.engines.trt_build import Job
from toolchain.engines.trt_package import INSTALL
from toolchain.engines.trt_process import run_build
from toolchain.engines.trt_sparse import sparse_in, with_tactics
from toolchain.errors import EngineError, MissingPackage
from toolchain.files import sha256_file
from toolchain.recipe.schema import DEFAULT_PRECISIONS

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

PACKAGES: tuple[str, ...] = ("tensorrt-rtx",)
COMPUTE = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "fp8", "int8": "int8", "mixed": "mixed",
           "int8_weight_only": "fp16", "int4": "fp16"}
BUILDS = 5  # at most, until two agree


def missing() -> str | None:
    """None when tensorrt_rtx is importable, else the install line."""
    return None if find_spec("tensorrt_rtx") else (
        f"runtime 'tensorrt_rtx' needs the package 'tensorrt-rtx': {INSTALL['tensorrt_rtx']}")


def not_runnable(cfg: Any) -> str | None:
    """"no GPU", or that none of this machine's GPUs is among the SMs the engine was built for."""
    if not gpus():
        return NO_GPU
    if gpus()[0].sm in sms_of(targets(cfg).target):
        return None
    return f"no GPU of {targets(cfg).target} (this is {gpus()[0].name}, sm{gpus()[0].sm})"


def refuse(cfg: Any) -> None:
    """Raise MissingPackage without the package; EngineError when an SM cannot run this precision."""
    if reason := missing():
        raise MissingPackage(reason)
    refuse_unsupported(cfg.precision, targets(cfg).target)


def targets(cfg: Any) -> Any:
    """`cfg` with every SM that runs its precision where none is named."""
    return cfg if cfg.target else cfg.model_copy(update={"target": target_of(DEFAULT[cfg.precision])})


def rules(cfg: Any) -> str:
    """Turing takes INT8 only on an FP16 graph, which has rules of its own."""
    return "tensorrt_sm75" if cfg.precision == "int8" and 75 in sms_of(targets(cfg).target) else "tensorrt"


def default_engines() -> list[dict[str, Any]]:
    """The usual precisions, each for every SM that runs it."""
    return [{"runtime": "tensorrt_rtx", "precision": precision} for precision in DEFAULT_PRECISIONS]


def build(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
    """Build in processes of their own until two gave the same bytes, so that later builds give them too.

    A file with 2:4 sparse layers is built with the sparse-weights flag.
    Raises EngineError with the builder's reason: unsupported operator, unsigned INT8, an empty or damaged file.
    """
    refuse(cfg)
    cfg = targets(cfg)
    engine = folder / "engine.trt"
    sparse = sparse_in(onnx_path)
    job = Job("tensorrt_rtx", str(onnx_path), str(engine), sms_of(cfg.target), cfg.batch.model_dump(), None, None,
              sparse is not None, info.get("image_size"))
    built = agreed(job, f"tensorrt_rtx {cfg.precision}")
    write_record(folder, describe(cfg, engine, onnx_path, info, compute=COMPUTE[cfg.precision], device=cfg.target,
                                  runtime_version=built["runtime_version"], layers=built["layers"],
                                  profile=cfg.batch.model_dump(), sparse=with_tactics(sparse, built["sparse"])))
    return engine


def agreed(job: Job, title: str) -> dict[str, Any]:
    """What run_build returns, of the first build whose bytes an earlier one had: mostly the second.

    Even at fixed addresses a build that is interrupted at an odd moment names its internal tensors otherwise. Where
    they cannot be fixed (some containers) every build may, so the first is kept.
    """
    seen: set[str] = set()
    for n in range(1, BUILDS + 1):
        built = run_build(job, title if n == 1 else f"{title}, again for equal bytes")
        digest = sha256_file(Path(job.engine))
        if digest in seen or not built["repeatable"]:
            return built
        seen.add(digest)
    console.log(f"{title}: {BUILDS} builds gave {BUILDS} files that differ in TensorRT's names for internal tensors; "
                "the last one is kept, and another build will have another digest")
    return built


def load(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open an engine on the GPU after checking its SHA-256. Raises DigestMismatch, EngineError, MissingPackage."""
    record, path = verify(folder)
    if reason := missing():
        raise MissingPackage(reason)
    if reason := not_runnable(record):
        raise EngineError(f"{path}: cannot run here: {reason}")
    from toolchain.engines.trt_run import open_engine

    return open_engine(record, path)

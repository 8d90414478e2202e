"""TensorRT 10.x and 11.x: engines built on, and for, the GPU of this machine (a Jetson, a server)."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.engines.gpu import NO_GPU, Gpu, gpus
from toolchain.engines.record import describe, verify, write_record
from toolchain.engines.rtx import COMPUTE
from toolchain.engines.trt_build import INSPECTED, Job
from toolchain.engines.trt_package import INSTALL
from toolchain.engines.trt_process import run_build
from toolchain.engines.trt_sparse import sparse_in, with_tactics
from toolchain.errors import EngineError, MissingPackage
from toolchain.files import write_text
from toolchain.recipe.schema import DEFAULT_PRECISIONS

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

PACKAGES: tuple[str, ...] = ("tensorrt",)
FIRST_SM = {"bf16": 80, "fp8": 89}  # Ampere; Ada and Hopper


def missing() -> str | None:
    """None when tensorrt is importable and there is a GPU to build on, else what is lacking."""
    if not find_spec("tensorrt"):
        return f"runtime 'tensorrt' needs the package 'tensorrt': {INSTALL['tensorrt']}"
    return None if gpus() else f"runtime 'tensorrt' builds on the GPU that will run the engine: {NO_GPU} here"


def not_runnable(cfg: Any) -> str | None:
    """"no GPU", or None."""
    return None if gpus() else NO_GPU


def refuse(cfg: Any) -> None:
    """Raise MissingPackage without the package; EngineError without a GPU, or for bf16 or fp8 on one that has none."""
    if not find_spec("tensorrt"):
        raise MissingPackage(f"engines: {missing()}")
    if not gpus():
        raise EngineError(f"engines: {missing()}; build on the device, or use runtime tensorrt_rtx")
    if gpus()[0].sm < FIRST_SM.get(cfg.precision, 0):
        raise EngineError(f"engines: tensorrt: found {cfg.precision}, which {gpus()[0].name} (sm{gpus()[0].sm}) lacks; "
                          f"use {'fp16' if cfg.precision == 'bf16' else 'int8'}")


def targets(cfg: Any) -> Any:
    """The target is written out already."""
    return cfg


def rules(cfg: Any) -> str:
    """The rule table that makes this engine's ONNX file."""
    return "tensorrt"


def default_engines() -> list[dict[str, Any]]:
    """Every precision that this machine's GPU has."""
    sm = gpus()[0].sm if gpus() else 0
    return [{"runtime": "tensorrt", "precision": p} for p in DEFAULT_PRECISIONS if sm >= FIRST_SM.get(p, 0)]


def timing_cache(gpu: Gpu) -> Path | None:
    """The file that keeps kernel timings for this GPU and version, so that a second build is quick and picks the same
    kernels. None where the user's cache folder cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toolchain" / "tensorrt"
    try:
        installed = version("tensorrt")
    except PackageNotFoundError:  # JetPack's system package may come without metadata
        installed = "system"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    device = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    return root / f"{installed}.{device}.sm{gpu.sm}.timing.cache" if os.access(root, os.W_OK) else None


def build(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
    """Build in a process of its own, on this machine's first GPU. Raises EngineError with the builder's reason.

    A file with 2:4 sparse layers is built with the sparse-weights flag: their zeros may then be skipped.
    """
    refuse(cfg)
    gpu, engine = gpus()[0], folder / "engine.trt"
    cache, sparse = timing_cache(gpu), sparse_in(onnx_path)
    job = Job("tensorrt", str(onnx_path), str(engine), [], cfg.batch.model_dump(), cfg.workspace_mb,
              str(cache) if cache else None, sparse is not None, info.get("image_size"))
    built = run_build(job, f"tensorrt {cfg.precision}")
    if built.get("inspected"):
        write_text(folder / INSPECTED, built["inspected"])
    write_record(folder, describe(cfg, engine, onnx_path, info, compute=COMPUTE[cfg.precision],
                                  device=f"{gpu.name} (sm{gpu.sm})", runtime_version=built["runtime_version"],
                                  layers=built["layers"], profile=cfg.batch.model_dump(),
                                  sparse=with_tactics(sparse, built["sparse"])))
    return engine


def load(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open an engine on the GPU after checking its SHA-256. Raises DigestMismatch, EngineError, MissingPackage."""
    record, path = verify(folder)
    if not find_spec("tensorrt"):
        raise MissingPackage(f"{path}: {missing()}")
    if reason := not_runnable(record):
        raise EngineError(f"{path}: cannot run here: {reason}")
    from toolchain.engines.trt_run import open_engine

    return open_engine(record, path)

"""Engines: one module per runtime behind one contract, found by the runtime's name.

A backend module is light: it decides what can be built and run, and imports its runtime only inside `build` and `load`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter

from toolchain.engines.record import read_record
from toolchain.errors import RecipeError, nearest
from toolchain.recipe.schema import Engine

if TYPE_CHECKING:
    from toolchain.engines.protocol import Backend, Loaded

BACKENDS = {
    "onnxruntime": "toolchain.engines.ort",
    "tensorrt_rtx": "toolchain.engines.rtx",
    "tensorrt": "toolchain.engines.trt",
    "openvino": "toolchain.engines.openvino",
}


def backend(runtime: str) -> Backend:
    """The module that builds and loads engines of `runtime`. Raises RecipeError for a name we do not list."""
    if runtime not in BACKENDS:
        raise RecipeError(f"engines: found runtime '{runtime}', expected {', '.join(BACKENDS)}"
                          f"{nearest(runtime, BACKENDS)}")
    return cast("Backend", import_module(BACKENDS[runtime]))


def default_engines() -> list[Engine]:
    """What a recipe without `engines` builds: every precision of each runtime that is installed here."""
    adapter: TypeAdapter[Engine] = TypeAdapter(Engine)
    modules = [backend(runtime) for runtime in BACKENDS]
    return [adapter.validate_python(cfg) for m in modules if m.missing() is None for cfg in m.default_engines()]


def load_engine(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open the engine that `folder` holds, whatever its runtime.

    threads: CPU threads; None: as many as there are physical cores for us.
    Raises EngineError (damaged folder, runtime refuses it), DigestMismatch (altered file), MissingPackage.
    """
    return backend(read_record(folder).runtime).load(folder, threads)

"""Engines: one module per runtime behind one contract, found by the runtime's name.

A backend module is light: it decides what can be built and run, and imports its runtime only inside `build` and `load`.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def by_name(asked: Sequence[Engine]) -> dict[str, Engine]:
    """The engines by name ("int8.onnxruntime.cpu_x86"), each with its target filled in. Raises RecipeError for one
    that stands there twice."""
    if again := repeated(asked):
        raise RecipeError(next(iter(again.values())))
    return {_name(engine): engine for one in asked for engine in [backend(one.runtime).targets(one)]}


def repeated(asked: Sequence[Engine]) -> dict[int, str]:
    """What is wrong with each engine, by its place in the list, that stands there before already."""
    names = [_name(backend(one.runtime).targets(one)) for one in asked]
    return {index: f"engines.{index}: {name} stands in the list twice; remove one"
            for index, name in enumerate(names) if name in names[:index]}


def _name(engine: Engine) -> str:
    return f"{engine.precision}.{engine.runtime}.{engine.target}"


def load_engine(folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
    """Open the engine that `folder` holds, whatever its runtime.

    threads: CPU threads; None: as many as there are physical cores for us.
    Raises EngineError (damaged folder, runtime refuses it), DigestMismatch (altered file), MissingPackage.
    """
    return backend(read_record(folder).runtime).load(folder, threads)

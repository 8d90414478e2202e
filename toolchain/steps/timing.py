"""Engines made only to be timed: float ONNX files built for one engine section, and their milliseconds side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain.engines import backend, load_engine
from toolchain.errors import EngineError, RecipeError, ToolchainError
from toolchain.recipe.prune import Latency, LowRank, SelfDistill
from toolchain.recipe.schema import Engine, Recipe
from toolchain.steps.job import plain

if TYPE_CHECKING:

    from toolchain.engines.protocol import Loaded
    from toolchain.measure.latency import Samples
    from toolchain.ranges import Ranges

LEAST_ROUNDS = 10
MADE_UP = 4.0  # the made-up range of INT8, for noise of size one; no speed depends on it
PASSING = ("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Concat")  # keep what is never negative so


@dataclass(frozen=True)
class Clock:
    """How engines are timed: each in `rounds` rounds of `runs` runs, in random order within a round.

    threads: of a CPU; None: the physical cores. batch: images of one run. seed: of the order and of the images.
    """

    engine: Engine
    batch: int = 1
    threads: int | None = None
    warmup: int = 3
    rounds: int = 10
    runs: int = 5
    seed: int = 0


def clock(recipe: Recipe, engine: Engine) -> Clock:
    """The recipe's own way of measuring (measure: batch, threads, warm-up, rounds and runs), for this engine.

    With fewer than LEAST_ROUNDS rounds an interval says too little to decide by.
    """
    cfg = recipe.measure
    return Clock(backend(engine.runtime).targets(engine), cfg.batch, cfg.threads, cfg.warmup,
                 max(cfg.rounds, LEAST_ROUNDS),
                 cfg.runs_per_round, recipe.seed)


def refuse_latency(cfg: Any, recipe: Recipe) -> None:
    """Refuse a prune section (of any method) that decides by an engine which cannot be built, or timed, here; and one
    with two teachers.

    Imports no torch: call it before anything is trained. Raises EngineError, MissingPackage, RecipeError.
    """
    if not isinstance(cfg, (Latency, LowRank)) or cfg.engine is None:
        return
    if isinstance(cfg, Latency) and recipe.distill and cfg.self_distill not in (None, SelfDistill()):
        raise RecipeError("prune.self_distill: found a teacher of its own, but the distill section's teaches after "
                          "pruning too; remove one of them")
    refuse_untimed("prune.engine", f"prune.method: {cfg.method}", cfg.engine, recipe)


def refuse_untimed(field: str, what: str, cfg: Engine, recipe: Recipe) -> None:
    """Refuse an engine that cannot be built, or timed, here. field: where it stands. what: decides by its latency.

    Raises EngineError, MissingPackage.
    """
    runtime = backend(cfg.runtime)
    try:
        runtime.refuse(cfg)
    except ToolchainError as error:
        raise type(error)(f"{field}: {str(error).removeprefix('engines: ')}") from None
    engine = runtime.targets(cfg)
    if reason := runtime.not_runnable(engine):
        raise EngineError(f"{field}: {engine.runtime} {engine.precision} on {engine.target} cannot be timed here: "
                          f"{reason}; {what} decides by measured latency: use an engine that runs on this machine, or "
                          "run the build on the one it is meant for")
    profile = getattr(engine, "batch", None)
    if profile and not profile.min <= recipe.measure.batch <= profile.max:
        raise EngineError(f"{field}: measure.batch is {recipe.measure.batch}, outside its profile "
                          f"({profile.min} to {profile.max}); change one of them")


def conditions(how: Clock) -> list[Any]:
    """What a measurement of this clock depends on, besides the files: for the key of a stage."""
    from toolchain.doctor import machine
    from toolchain.workdir import package_version

    versions = {package: package_version(package) for package in backend(how.engine.runtime).PACKAGES}
    return [plain(how.engine), how.batch, how.threads, how.warmup, how.rounds, how.runs, how.seed, versions, machine()]


def timed_ms(files: Mapping[str, Path], how: Clock, folder: Path | None = None) -> dict[str, Samples]:
    """Milliseconds (rounds, runs) of the engine of each clean float ONNX file, interleaved.

    folder: where the engines are built (and left); None: somewhere that is removed afterwards.
    Raises EngineError, MissingPackage, OnnxError.
    """
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory()))
        return side_by_side(stack.enter_context(open_timed(files, how, place)), how)


def side_by_side(engines: Mapping[str, Loaded], how: Clock) -> dict[str, Samples]:
    """Milliseconds (rounds, runs) of open engines, interleaved, each on noise of its own input's size."""
    from toolchain.measure.bench import noise
    from toolchain.runner.rounds import interleaved_ms

    images = {name: noise(engine, how.batch, how.seed) for name, engine in engines.items()}
    return interleaved_ms(engines, images, warmup=how.warmup, rounds=how.rounds, runs=how.runs, seed=how.seed)


@contextmanager
def open_timed(files: Mapping[str, Path], how: Clock, folder: Path) -> Iterator[dict[str, Loaded]]:
    """Build and open the engine of each file, below `folder`/<name>; all are closed at the end."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(load_engine(build_timed(path, how.engine, folder / name), how.threads))
               for name, path in files.items()}


def build_timed(onnx: Path, engine: Engine, folder: Path) -> Path:
    """The folder of an engine made from a clean float ONNX file, as a build would make it.

    INT8 gets made-up ranges: it is as fast as with calibrated ones, and as good for nothing else.
    Raises EngineError, MissingPackage, OnnxError.
    """
    from toolchain.graph.convert import convert

    runtime = backend(engine.runtime)
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "model.onnx"
    ranges = made_up_ranges(onnx) if engine.precision == "int8" else None
    info = convert(onnx, ready, engine.precision, runtime.rules(engine), ranges)
    runtime.build(ready, engine, folder, info)
    return folder


def made_up_ranges(onnx: Path) -> Ranges:
    """A range for every tensor that a target may quantize: never negative where it comes out of a ReLU."""
    from toolchain.graph.layers import quantizable_tensors
    from toolchain.graph.onnx_file import read_onnx
    from toolchain.ranges import ActivationRange, Ranges

    graph = read_onnx(onnx).graph
    rectified = set[str]()
    for node in graph:
        given = [value.name for value in node.inputs if value is not None and value.name not in graph.initializers]
        if node.op_type in ("Relu", "Clip") or node.op_type in PASSING and all(name in rectified for name in given):
            rectified.update(value.name for value in node.outputs if value.name)
    return Ranges({name: ActivationRange(0.0 if name in rectified else -MADE_UP, MADE_UP, MADE_UP)
                   for name in quantizable_tensors(graph)}, {}, "made up, for timing")

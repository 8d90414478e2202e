"""The target side of a build: the engines, and what they really do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from toolchain.engines import backend, by_name, default_engines
from toolchain.recipe.schema import Engine, Gpfq, Recipe
from toolchain.steps.graphs import converted, exported
from toolchain.steps.job import Job, plain
from toolchain.workdir import Stage


def choose_engines(recipe: Recipe) -> dict[str, Engine]:
    """The recipe's engines by name ("int8.onnxruntime.cpu_x86"), or every precision of each installed runtime.

    Raises MissingPackage, EngineError or RecipeError for what cannot be built, before any work is done.
    """
    chosen = recipe.engines if recipe.engines is not None else _default_engines(recipe)
    for asked in chosen:
        backend(asked.runtime).refuse(asked)
    return by_name(chosen)


def _default_engines(recipe: Recipe) -> list[Engine]:
    """Every precision of each installed runtime, without the integers that cannot hold the codes of GPFQ.

    With quantize.mixed also a mixed engine of each that has INT4, under a latency budget if it can be timed here.
    """
    quantize = recipe.quantize
    usual = [engine for engine in default_engines()
             if not (isinstance(quantize, Gpfq) and quantize.holds_others(engine.precision))]
    asked = [engine.model_copy(update={"precision": "mixed"}) for engine in usual
             if quantize.mixed and engine.precision == "int4"]
    timed = getattr(quantize.mixed, "latency", None) is not None
    return usual + [engine for engine in asked if not timed or backend(engine.runtime).not_runnable(engine) is None]


def built(job: Job, name: str, engine: Engine, model: Stage, published: bool = True) -> Stage:
    """One engine file and its engine.json."""
    runtime = backend(engine.runtime)

    def make(folder: Path) -> str:
        info = json.loads((model.folder / "info.json").read_text())
        path = runtime.build(model.folder / "model.onnx", engine, folder, info)
        return f"{path.stat().st_size / 1e6:.2f} MB"

    stage = job.work.stage(f"engine_{name}", make, section=plain(engine), inputs=[model], rooms=["engines"],
                           packages=runtime.PACKAGES)
    for file in sorted(stage.folder.iterdir()) if published and stage.folder.is_dir() else []:
        if file.name != "stage.json":
            job.work.publish(file, f"engines/{name}/{file.name}")
    return stage


def unpruned_engines(job: Job, engines: Mapping[str, Engine], student: Stage) -> dict[str, Stage]:
    """FP32 engines of the network before pruning, by name: one for each FP32 engine of the recipe that runs here.

    They are timed beside the others, and are no product of the build.
    """
    wanted = {name: engine for name, engine in engines.items()
              if engine.precision == "fp32" and backend(engine.runtime).not_runnable(engine) is None}
    if not wanted:
        return {}
    onnx = exported("export_unpruned", job, student)
    return {f"unpruned.{name}": built(job, f"unpruned.{name}", engine, converted(job, engine, onnx, None, True), False)
            for name, engine in wanted.items()}


def measured(
    job: Job, engines: Mapping[str, Engine], stages: Mapping[str, Stage], unpruned: Mapping[str, Stage]
) -> Stage:
    """Accuracy, latency and memory of every engine that can run here (measured.json); the reason for the others.

    unpruned: engines of `unpruned_engines`, which the others are compared with in the same rounds.
    """
    from toolchain.doctor import machine

    cfg, seed = job.recipe.measure, job.recipe.seed
    reasons = {name: backend(engine.runtime).not_runnable(engine) for name, engine in engines.items()}
    everything = {**stages, **unpruned}

    def make(folder: Path) -> str:
        from toolchain.data import batches
        from toolchain.measure import measure_engines

        data = job.dataset()
        pixels = data.test.images([i % len(data.test) for i in range(cfg.batch)])
        folders = {name: stage.folder for name, stage in everything.items()}
        measure_engines(folders, reasons, lambda: batches(data.test, data.preprocess, cfg.accuracy_batch),
                        data.test.labels, cfg, folder, seed, len(data.classes), unpruned=set(unpruned),
                        normalized=lambda: data.preprocess.normalize(pixels))
        return f"{sum(reason is None for reason in reasons.values())} of {len(reasons)} engines run here"

    packages = sorted({p for engine in engines.values() for p in backend(engine.runtime).PACKAGES})
    section = [plain(cfg, "gradcam_images"), seed, reasons, machine()]
    return job.work.stage("measure", make, section=section, inputs=[job.data, *everything.values()],
                          rooms=["measure", "engines", "runner"], packages=packages)

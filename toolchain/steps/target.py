"""The target side of a build: the engines, and what they really do."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain.engines import backend, default_engines
from toolchain.errors import RecipeError
from toolchain.recipe.schema import Engine, Recipe
from toolchain.steps.job import Job, plain
from toolchain.workdir import Stage


def choose_engines(recipe: Recipe) -> dict[str, Engine]:
    """The recipe's engines by name ("int8.onnxruntime.cpu_x86"), or every precision of each installed runtime.

    Raises MissingPackage, EngineError or RecipeError for what cannot be built, before any work is done.
    """
    chosen = recipe.engines if recipe.engines is not None else default_engines()
    if not chosen:
        raise RecipeError("engines: the list is empty; name at least one engine, or leave it out for the default")
    engines: dict[str, Engine] = {}
    for index, asked in enumerate(chosen):
        runtime = backend(asked.runtime)
        runtime.refuse(asked)
        engine = runtime.targets(asked)
        name = f"{engine.precision}.{engine.runtime}.{engine.target}"
        if name in engines:
            raise RecipeError(f"engines.{index}: {name} stands in the list twice; remove one")
        engines[name] = engine
    return engines


def built(job: Job, name: str, engine: Engine, model: Stage) -> Stage:
    """One engine file and its engine.json."""
    runtime = backend(engine.runtime)

    def make(folder: Path) -> str:
        info = json.loads((model.folder / "info.json").read_text())
        path = runtime.build(model.folder / "model.onnx", engine, folder, info)
        return f"{path.stat().st_size / 1e6:.2f} MB"

    stage = job.work.stage(f"engine_{name}", make, section=plain(engine), inputs=[model], rooms=["engines"],
                           packages=runtime.PACKAGES)
    for file in sorted(stage.folder.iterdir()) if stage.folder.is_dir() else []:
        if file.name != "stage.json":
            job.work.publish(file, f"engines/{name}/{file.name}")
    return stage


def measured(job: Job, engines: dict[str, Engine], stages: dict[str, Stage]) -> Stage:
    """Accuracy, latency and memory of every engine that can run here (measured.json); the reason for the others."""
    from toolchain.doctor import machine

    cfg, seed = job.recipe.measure, job.recipe.seed
    reasons = {name: backend(engine.runtime).not_runnable(engine) for name, engine in engines.items()}

    def make(folder: Path) -> str:
        from toolchain.data import batches
        from toolchain.measure import measure_engines

        data = job.dataset()
        folders = {name: stage.folder for name, stage in stages.items()}
        measure_engines(folders, reasons, lambda: batches(data.test, data.preprocess, cfg.accuracy_batch),
                        data.test.labels, cfg, folder, seed, len(data.classes))
        return f"{sum(reason is None for reason in reasons.values())} of {len(reasons)} engines run here"

    packages = sorted({p for engine in engines.values() for p in backend(engine.runtime).PACKAGES})
    return job.work.stage("measure", make, section=[plain(cfg), seed, reasons, machine()],
                          inputs=[job.data, *stages.values()], rooms=["measure", "engines"], packages=packages)

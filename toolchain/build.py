"""The pipeline: one straight function that calls the stages in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.console import log
from toolchain.errors import EngineError, OnnxError, ToolchainError
from toolchain.recipe.inputs import refuse_missing_set
from toolchain.recipe.load import resolved_yaml
from toolchain.recipe.schema import OnnxModel, Recipe
from toolchain.steps.blaming import publish_reference
from toolchain.steps.contract import contracted
from toolchain.steps.fidelity import taught
from toolchain.steps.golden import golden
from toolchain.steps.graphs import converted, exported, imported
from toolchain.steps.job import open_job
from toolchain.steps.mixing import assigned, refuse_mixed, refuse_names, start_of
from toolchain.steps.pruned_facts import SHEET, packed_weights, pruned_facts
from toolchain.steps.quantized_facts import quantized_facts
from toolchain.steps.quantizing import quantized
from toolchain.steps.student import float_student, teacher
from toolchain.steps.target import built, choose_engines, measured, unpruned_engines
from toolchain.steps.timing import refuse_latency
from toolchain.workdir import Stage, WorkDir, rank

if TYPE_CHECKING:
    from toolchain.report.schema import Report


def build(
    recipe: Recipe, work: WorkDir, base: Path, roots: Sequence[Path], imports: Sequence[Path] = ()
) -> Report | None:
    """Run every stage of `recipe` that `work` does not hold yet, and write the report.

    base: folder that the recipe's relative paths start from. roots: where datasets are looked up. imports: files with
    the user's own networks. Returns None when `work.dry` (the stages are only listed) and on the secondary ranks of a
    distributed run. An engine that cannot be built stands in the report with its reason, beside the others. Raises a
    ToolchainError, before anything is built where that can be known, and where no engine can be built.
    """
    engines = choose_engines(recipe)
    refuse_missing_set(recipe, base)
    refuse_latency(recipe.prune, recipe)
    refuse_mixed(recipe, engines)
    if not work.dry and rank() == 0:
        work.start(resolved_yaml(recipe), roots)

    job = open_job(recipe, work, base, roots, imports)
    work.publish(job.data.folder / "preprocess.json", "preprocess.json")
    refuse_names(job)
    if isinstance(recipe.model, OnnxModel):
        onnx, student = imported(job), None
    else:
        taught_by = teacher(job)
        student = float_student(job, taught_by)
        for file in ("model.safetensors", "architecture.json"):
            work.publish(student.folder / file, f"student/{file}")
        onnx = exported("export", job, student)
    starts = quantized(job, onnx, student, {start_of(engine) for engine in engines.values()})

    models: dict[str, Stage] = {}
    stages: dict[str, Stage] = {}
    failed: dict[str, ToolchainError] = {}
    for name, engine in engines.items():
        start = starts[start_of(engine)]
        try:
            mixed = assigned(job, engine, *start) if engine.precision == "mixed" else None
            model = converted(job, engine, *start, assignment=mixed)
            stages[name] = built(job, name, engine, model)
        except (EngineError, OnnxError) as wrong:  # the other engines are worth having all the same
            log(f"{name} cannot be built: {wrong}")
            failed[name] = wrong
            continue
        models[name] = model
        publish_reference(job, engine, *start)
        contracted(job, name, engine, model, start[0], stages[name])
    if failed and not stages:
        raise next(iter(failed.values()))
    asked, engines = engines, {name: engines[name] for name in stages}
    references: dict[str, Stage] = {}
    if recipe.prune:
        before = next(stage for stage in work.stages if stage.name == "train")
        references = unpruned_engines(job, engines, before)
    measurement = measured(job, engines, stages, references)
    for file in ("predictions.npz", "latency.npz"):  # what `check` compares
        work.publish(measurement.folder / file, file)
    golden(job, engines, stages, models)
    quantized_facts(job, engines, models)
    comparison = facts = None
    if recipe.measure.fidelity:
        assert taught_by is not None and student
        comparison = taught(job, engines, stages, student, taught_by)
    if recipe.prune and student:
        facts = pruned_facts(job, before, student)
        packed_weights(job, models)
    _show(work, comparison, "gradcam.png")
    _show(work, facts, SHEET)
    if work.dry or rank() != 0:
        return None
    from toolchain.steps.result import reported

    return reported(recipe, work, asked, stages, measurement, references, failed)


def _show(work: WorkDir, stage: Stage | None, sheet: str) -> None:
    """Publish the picture sheet that `stage` left, or take away that of a build that drew one."""
    if stage and (stage.folder / sheet).is_file():
        work.publish(stage.folder / sheet, sheet)
    else:
        work.withdraw(sheet)

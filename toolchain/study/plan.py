"""A study as a list of builds; every recipe, override and missing file is refused here, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from toolchain.build import build
from toolchain.errors import RecipeError, ToolchainError
from toolchain.recipe.load import data_roots, load_recipe, locate
from toolchain.recipe.schema import Gpfq, Recipe
from toolchain.recipe.study import StudyFile, Sweep
from toolchain.steps.target import choose_engines
from toolchain.study.figures import coded_engine, judged_engine
from toolchain.workdir import WorkDir


@dataclass(frozen=True)
class Run:
    """One build of a study. base, roots: where its recipe's paths and datasets are looked up."""

    row: str
    seed: int
    recipe: Recipe
    engine: str
    base: Path
    roots: Sequence[Path]
    work: Path
    cache: Path


class Planned(NamedTuple):
    """One run as it would go: its stages, and how many of them it would make."""

    row: str
    seed: int
    stages: int
    to_do: int


def plan_runs(
    file: StudyFile, out: Path, overrides: Sequence[str] = (), data_root: Path | None = None,
    imports: Sequence[Path] = (), architectures: Sequence[str] = (),
) -> list[Run]:
    """Every run of the study, the first seed of all rows before the second, so that each row has a figure early.

    overrides: of the command line, after the row's own. imports, architectures: the user's files and their networks.
    Raises the first row's error with the mistakes of all rows, each with the study's file, line and row.
    """
    rows: dict[str, list[Run]] = {}
    errors: list[tuple[str, ToolchainError]] = []
    for name in file.study.rows:
        try:
            rows[name] = _row(file, name, out, overrides, data_root, imports, architectures)
        except ToolchainError as error:
            errors.append((name, error))
    if errors:
        told = [f"{file.path}:{file.lines[name]}: rows.{name}: " + str(error).replace("\n", "\n  ")
                for name, error in errors]
        raise type(errors[0][1])("\n".join(told))
    return [run for runs in zip(*rows.values(), strict=True) for run in runs]


def stages_to_do(runs: Sequence[Run], imports: Sequence[Path] = ()) -> list[Planned]:
    """What each run would make, found without making anything; a stage that runs share counts in the first of them."""
    planned: list[Planned] = []
    promised: set[Path] = set()
    for run in runs:
        work = WorkDir(run.work, run.cache, dry=True)
        build(run.recipe, work, run.base, run.roots, imports)
        missing = {stage.folder for stage in work.stages if not stage.cached} - promised
        promised |= missing
        planned.append(Planned(run.row, run.seed, len(work.stages), len(missing)))
    return planned


def _row(
    file: StudyFile, name: str, out: Path, overrides: Sequence[str], data_root: Path | None, imports: Sequence[Path],
    architectures: Sequence[str],
) -> list[Run]:
    """The runs of one row, the first of them tried dry: that finds missing data, teachers and packages."""
    study, row = file.study, file.study.rows[name]
    path = locate(row.recipe, file.path.parent, "recipe")
    if path.is_dir():
        raise RecipeError(f"recipe: {path} is a folder; name a YAML file in it")
    runs = []
    for seed in study.seeds:
        recipe = _recipe(path, [*study.set, *row.set, *overrides, f"seed={seed}"], study.sweep, architectures)
        engines = choose_engines(recipe)
        engine = judged_engine(engines, study.engine)
        if study.sweep and study.engine is None and isinstance(recipe.quantize, Gpfq):
            engine = coded_engine(engines, recipe.quantize.precisions)
        if engine is None:
            wanted = f"engine '{study.engine}'" if study.engine else "fp32 engine of onnxruntime"
            raise RecipeError(f"the recipe builds no {wanted}, whose top-1 the study compares, but "
                              f"{', '.join(engines)}; add it to the recipe's `engines`, or name one of these as the "
                              "study's `engine`")
        runs.append(Run(name, seed, recipe, engine, path.parent, data_roots(path, data_root),
                        out / "runs" / f"{name}.seed{seed}", out / "cache"))
    first = runs[0]
    build(first.recipe, WorkDir(first.work, first.cache, dry=True), first.base, first.roots, imports)
    return runs

def _recipe(path: Path, overrides: Sequence[str], sweep: Sweep | None, architectures: Sequence[str]) -> Recipe:
    """The recipe of one run; in a sweep without the integer engines that hold the codes at fewer bits, but not here.

    Such are those of 8 bits in the study's alphabet: 257 levels, which run as floats. Raises RecipeError.
    """
    try:
        return load_recipe(path, overrides, architectures)
    except RecipeError:
        if sweep is None:
            raise
        fewest = load_recipe(path, [*overrides, f"quantize.bits={sweep.bits[0]}"], architectures)
        cfg = load_recipe(path, [*overrides, "engines=null"], architectures).quantize
        held = [engine.model_dump(mode="json") for engine in fewest.engines or ()
                if not (isinstance(cfg, Gpfq) and cfg.holds_others(engine.precision))]
        with suppress(RecipeError):  # of what is left, which nobody wrote
            return load_recipe(path, [*overrides, f"engines={json.dumps(held)}"], architectures)
        raise

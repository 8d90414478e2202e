"""What each subcommand does, callable from Python with the same arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.errors import EngineError, LimitsNotHeld, RecipeError
from toolchain.recipe.load import data_roots, load_recipe
from toolchain.recipe.schema import Recipe
from toolchain.workdir import WorkDir, locked, rank


def open_recipe(path: Path, overrides: Sequence[str] = (), imports: Sequence[Path] = ()) -> Recipe:
    """The validated recipe. imports: Python files whose MODELS dict adds networks; they are run. Raises RecipeError."""
    return load_recipe(path, overrides, imported(imports))


def imported(imports: Sequence[Path]) -> list[str]:
    """Names of the networks that these files add; the files are run."""
    names: list[str] = []
    for file in imports:
        from toolchain.models import import_models

        names += import_models(file)
    return names


def run_build(
    path: Path, overrides: Sequence[str] = (), imports: Sequence[Path] = (), data_root: Path | None = None,
    out: Path | None = None, cache: Path | None = None, quiet: bool = False, on: Sequence[str] = (),
    devices: Path | None = None, remeasure: bool = False,
) -> int:
    """Build everything `path` asks for under `out` (default: build/<name>) and print the table.

    on: names of devices in the file `devices` (None: the usual one) that the engines are built and measured on too;
    where none of them can be used nothing is built. remeasure: judge and time the engines anew, here and there, though
    that is done. Returns 0. Raises DeviceError where no device can be used and, after everything is written,
    EngineError when an engine could not be built, DeviceError when a device failed, LimitsNotHeld when an engine does
    not hold the recipe's limits.
    """
    from toolchain.build import build
    from toolchain.console import log, set_quiet
    from toolchain.devices.file import chosen, devices_file
    from toolchain.steps.early import refuse_early

    set_quiet(quiet or rank() != 0)
    recipe = open_recipe(path, overrides, imports)
    refuse_early(path, recipe, overrides, here=True)
    asked = chosen(devices_file(devices), on) if on else {}
    work = WorkDir(out or Path("build") / recipe.name, cache, anew=("measure",) if remeasure else ())
    if rank() != 0:
        build(recipe, work, path.parent, data_roots(path, data_root), imports)
        return 0
    if asked:
        from toolchain.devices.building import ask_first
        from toolchain.steps.target import choose_engines

        ask_first(asked, recipe.measure.threads, choose_engines(recipe))
    with locked(work.out):
        report = build(recipe, work, path.parent, data_roots(path, data_root), imports)
        assert report is not None
        there: Mapping[str, object] = {}
        if asked:
            from toolchain.steps.job import open_job
            from toolchain.steps.on_devices import on_devices

            job = open_job(recipe, work, path.parent, data_roots(path, data_root), imports)
            report, there = on_devices(job, report, asked, remeasure)
        elif any((work.out / "devices").glob("*")):
            from toolchain.steps.on_devices import as_before

            report = as_before(recipe, work.out, report)
    from toolchain.report.limits import broken
    from toolchain.report.table import print_report

    print_report(report)
    log(f"report: {work.out / 'report.html'}")
    if unbuilt := [f"{engine.name}: {engine.reason}" for engine in report.engines if not engine.built]:
        raise EngineError("not every engine could be built; the others are kept and reported:\n  "
                          + "\n  ".join(unbuilt))
    if there:
        from toolchain.devices.many import refuse_failed

        refuse_failed(there)
    if failed := broken(report.limits):
        raise LimitsNotHeld("limits not held, everything built is kept:\n  " + "\n  ".join(failed))
    return 0


def run_study(
    path: Path, overrides: Sequence[str] = (), imports: Sequence[Path] = (), data_root: Path | None = None,
    out: Path | None = None, quiet: bool = False, dry_run: bool = False,
) -> int:
    """Build every row of the study in `path` on every seed under `out` (default: build/<name>) and print the table.

    overrides: of every run, after the study's and the row's own. dry_run: only say what would be built.
    Returns 0, or the first failed run's exit code.
    """
    from toolchain.console import log, set_quiet
    from toolchain.recipe.study import load_study
    from toolchain.study.console_table import print_plan, print_study
    from toolchain.study.plan import plan_runs, stages_to_do
    from toolchain.study.run import run_all

    set_quiet(quiet or rank() != 0)
    file = load_study(path)
    folder = out or Path("build") / file.study.name
    runs = plan_runs(file, folder, overrides, data_root, imports, imported(imports))
    if dry_run:
        print_plan(f"{file.study.name} in {folder}", stages_to_do(runs, imports))
        return 0
    if rank() != 0:
        run_all(file, runs, folder, imports, overrides)
        return 0
    with locked(folder):
        result = run_all(file, runs, folder, imports, overrides)
    print_study(result)
    log(f"study: {folder / 'study.html'}")
    return next((failure.exit_code for row in result.rows for failure in row.failures), 0)


def run_compare(
    teacher: str, students: Sequence[str], engine: str | None = None, recipe: Path | None = None,
    data_root: Path | None = None, out: Path | None = None, gradcam: bool = True, jitter: bool = False,
    imports: Sequence[Path] = (),
) -> int:
    """Judge students and their teacher (DIR, DIR:ENGINE or FILE.onnx) on one test set and print the table.

    recipe: its data, seed and measure.fidelity settings are used; None: the first build's data. Everything is written
    under `out` (default: build/compare). Returns 0.
    """
    from toolchain.console import log
    from toolchain.recipe.schema import Fidelity, FrozenJitter
    from toolchain.steps.compare import compare_builds
    from toolchain.steps.compare_table import print_comparison
    from toolchain.steps.contestants import find_contestants, shared_test_set

    known = imported(imports)
    everyone = find_contestants([teacher, *students], engine)
    source = load_recipe(recipe, (), known) if recipe else None
    dataset = shared_test_set(everyone, (recipe, source) if recipe and source else None, data_root)
    cfg = source and source.measure.fidelity or Fidelity()
    cfg = cfg.model_copy(update={"gradcam": gradcam, "jitter": (cfg.jitter or FrozenJitter()) if jitter else None})
    folder = out or Path("build/compare")
    with locked(folder):
        found = compare_builds(folder, everyone[0], everyone[1:], dataset, cfg, source.seed if source else 0)
    print_comparison(found)
    log(f"comparison: {folder / 'compare.md'}")
    return 0


def run_sensitivity(
    path: Path, of: str | None = None, ratios: str | None = None, images: int | None = None, jobs: int | None = None,
    overrides: Sequence[str] = (), data_root: Path | None = None, out: Path | None = None, cache: Path | None = None,
    imports: Sequence[Path] = (),
) -> int:
    """Scan the student of the recipe in `path` layer by layer and print the most and the least sensitive ones.

    of, ratios: comma-separated; None: all kinds, the defaults of a recipe's scan. Everything is written under `out`
    (default: build/<name>), in sensitivity/. Returns 0.
    """
    from toolchain.console import log
    from toolchain.files import write_text
    from toolchain.sensitivity.console_table import print_scans
    from toolchain.sensitivity.html import render_html
    from toolchain.sensitivity.markdown import render_markdown
    from toolchain.sensitivity.options import read_kinds, read_scan
    from toolchain.steps.scanning import scan_recipe

    kinds, scan = read_kinds(of), read_scan(ratios, images)
    recipe = open_recipe(path, overrides, imports)
    work = WorkDir(out or Path("build") / recipe.name, cache)
    with locked(work.out):
        scans = scan_recipe(recipe, kinds, scan, work, path.parent, data_roots(path, data_root), imports, jobs)
        folder = work.out / "sensitivity"
        files = {kind: (folder / f"sensitivity_{kind}.json").as_posix() for kind in scans}
        write_text(folder / "sensitivity.md", render_markdown(recipe.name, scans, files))
        write_text(folder / "sensitivity.html", render_html(recipe.name, scans, files))
    print_scans(scans, files)
    log(f"sensitivity: {folder / 'sensitivity.html'}")
    return 0


def run_blame(
    folder: Path, engine: str | None = None, images: int = 128, apply: Path | None = None, as_json: bool = False,
    data_root: Path | None = None,
) -> int:
    """Rank the layers of a finished build's quantized engine by what each costs, and print what would mend it.

    apply: the recipe of the build, into which the edit is written. Leaves blame/ in `folder`. Returns 0.
    """
    from toolchain.blame.console_table import print_blame
    from toolchain.blame.recipe_file import apply as write_edit
    from toolchain.blame.recipe_file import check_unchanged
    from toolchain.console import log
    from toolchain.steps.blaming import blame_run
    from toolchain.steps.blaming_run import find_run

    run = find_run(folder, engine)
    if apply:
        check_unchanged(apply, run.report.recipe)
    with locked(folder):
        found = blame_run(run, images, data_root)
    print(found.to_json(), end="") if as_json else print_blame(found)
    log(f"blame: {folder / 'blame' / 'blame.md'}")
    if apply and found.proposal:
        log(write_edit(apply, found.proposal.field, found.proposal.value))
    elif apply:
        log(f"{apply}: unchanged; there is no edit to write")
    return 0


def run_doctor(as_json: bool = False) -> None:
    """Print what this machine can build and run, and how to get the rest."""
    from toolchain.doctor import examine, render_doctor

    facts = examine()
    print(json.dumps(facts, indent=1)) if as_json else render_doctor(facts)


def run_explain_formats(
    path: Path | None = None, overrides: Sequence[str] = (), imports: Sequence[Path] = (),
    data_root: Path | None = None, out: Path | None = None, cache: Path | None = None, as_json: bool = False,
) -> None:
    """Print the number formats and, with a recipe, what its network loses in each of them."""
    from toolchain.explain.table import as_data, print_formats, print_losses

    if path is None:
        print(json.dumps(as_data(), indent=1)) if as_json else print_formats()
        return
    from toolchain.steps.explaining import losses_of

    recipe = open_recipe(path, overrides, imports)
    work = WorkDir(out or Path("build") / recipe.name, cache, dry=True)
    found, where = losses_of(recipe, work, path.parent, data_roots(path, data_root), imports)
    if as_json:
        print(json.dumps(as_data(recipe.name, where, found), indent=1))
        return
    print_formats()
    print_losses(recipe.name, where, found)


def run_calib(
    path: Path, overrides: Sequence[str] = (), data_root: Path | None = None, images: int = 512,
    out: Path | None = None,
) -> Path:
    """Write a calibration set of `images` class-balanced training images of the recipe. Returns its folder."""
    from toolchain.data import load_dataset
    from toolchain.data.calibration import check_disjoint, draw_calibration, write_calibration_set

    recipe = open_recipe(path, overrides)
    folder = out or Path("calib_data") / recipe.name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RecipeError(f"--out {folder}: exists and is not an empty folder; choose another one")
    dataset = load_dataset(recipe.data, data_roots(path, data_root))
    drawn, labels = draw_calibration(dataset, images, recipe.seed, "--images")
    check_disjoint(drawn, dataset.test)
    write_calibration_set(folder, drawn, labels, dataset)
    print(f"{folder}: {len(drawn)} images of {dataset.name}, none of them in test")
    return folder

"""The commands that read a recipe or a study and build it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import (
    CacheOption,
    FileOption,
    ImportOption,
    OutOption,
    RecipeArgument,
    RootOption,
    SetOption,
    app,
)


@app.command(rich_help_panel="Build")
def build(
    recipe: RecipeArgument, out: OutOption = None, set_: SetOption = None, imports: ImportOption = None,
    data_root: RootOption = None, cache: CacheOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the final table.")] = False,
    on: Annotated[list[str] | None, typer.Option(
        "--on", metavar="DEVICE", help="Then build, judge and time them there too; may stand several times. "
        "All are asked first: one that fails does not stop the rest, and if all do nothing is built.")] = None,
    devices: FileOption = None,
    remeasure: Annotated[bool, typer.Option(
        "--remeasure", help="Judge and time the engines anew, though nothing changed: here, and on each --on DEVICE.",
    )] = False,
) -> None:
    """Build every engine of RECIPE and report its true accuracy, latency and storage.

    Finished stages are kept: after Ctrl-C, a crash or a full disk the same command goes on where it stopped, and a
    repeated build does nothing. Everything lies under --out: report.html, report.md, report.json, engines/, onnx/.
    """
    from toolchain.commands import run_build

    raise typer.Exit(run_build(recipe, set_ or [], imports or [], data_root, out, cache, quiet, on or [], devices,
                               remeasure))


@app.command(rich_help_panel="Build")
def plan(
    recipe: RecipeArgument, out: OutOption = None, set_: SetOption = None, imports: ImportOption = None,
    data_root: RootOption = None, cache: CacheOption = None,
    needs: Annotated[bool, typer.Option("--needs", help="Also each stage's key, and what it reads.")] = False,
) -> None:
    """Show what `build` would do: the stages, which are cached, what it would download and what is missing."""
    from toolchain.commands_plan import run_plan

    raise typer.Exit(run_plan(recipe, set_ or [], imports or [], data_root, out, cache, needs))


@app.command(rich_help_panel="Build")
def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="YAML files; one or several")],
    set_: SetOption = None, imports: ImportOption = None,
) -> None:
    """Check each RECIPE and name every mistake at once: file, line, field, value, what is allowed."""
    from toolchain.commands_plan import run_validate

    run_validate(recipes, set_ or [], imports or [])


@app.command(rich_help_panel="Build")
def study(
    file: Annotated[Path, typer.Argument(
        metavar="STUDY", help="YAML file, such as recipes/studies/digits_teacher.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="Output folder  \\[default: build/<study name>]")] = None,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="FIELD=VALUE", help="Override a field of every run: --set train.epochs=3")] = None,
    imports: ImportOption = None, data_root: RootOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the final table.")] = False,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="List the runs and how many stages each has to do; train nothing.")] = False,
) -> None:
    """Build every row of STUDY on every seed, and report means, intervals and differences to the control.

    STUDY names rows (a recipe and its overrides) and seeds:

    \b
      name: digits_kd
      seeds: \[0, 1, 2]
      control: independent      # the row that the others are compared with
      set: \[train.epochs=4]    # overrides of every row
      rows:
        independent: {recipe: ../vgg11_distilled.yaml, set: \[distill=null]}
        soft_targets: {recipe: ../vgg11_distilled.yaml}

    Each row × seed is an ordinary build in --out/runs; what they share is made once, in --out/cache. Every mistake is
    named before anything is trained. After Ctrl-C the same command goes on; new seeds or rows build only what is new.
    A run that fails is listed and the others go on. Results: study.md, study.html, study.json, rewritten after each
    run. Exit code: 0, or that of the first run that failed.
    """
    from toolchain.commands import run_study

    raise typer.Exit(run_study(file, set_ or [], imports or [], data_root, out, quiet, dry_run))


@app.command(rich_help_panel="Build")
def calib(
    recipe: RecipeArgument,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images, class-balanced, from train.")] = 512,
    out: Annotated[Path | None, typer.Option("--out", help="Folder  \\[default: calib_data/<recipe name>]")] = None,
    set_: SetOption = None, data_root: RootOption = None,
) -> None:
    """Make a calibration set from RECIPE's training images: uint8 arrays and a manifest with their SHA-256."""
    from toolchain.commands import run_calib

    run_calib(recipe, set_ or [], data_root, images, out)

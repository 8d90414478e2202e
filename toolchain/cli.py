"""The command line: arguments in, exit code out, nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolchain.errors import ToolchainError

app = typer.Typer(
    name="toolchain", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="One recipe in, measured engines out: train, prune, quantize, export, build, measure and report.",
    epilog="Start with: [bold]toolchain build recipes/vgg11_int8.yaml[/bold]   Exit codes: 0 done, 2 recipe, 3 data, "
           "4 training, 5 ONNX, 6 engine, 7 package missing, 8 altered file, 9 output folder, 10 limit not held, "
           "130 interrupted (the same command goes on).")

INTERRUPTED = 130  # what typer turns a KeyboardInterrupt into

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, such as recipes/vgg11_int8.yaml")]
SetOption = Annotated[list[str] | None, typer.Option(
    "--set", metavar="FIELD=VALUE", help="Override a field: --set train.epochs=3 --set quantize.calibrator=max")]
ImportOption = Annotated[list[Path] | None, typer.Option(
    "--import", metavar="FILE.py", help="Run this Python file: its MODELS dict adds your own networks to model.arch.")]
RootOption = Annotated[Path | None, typer.Option(
    "--data-root", envvar="TOOLCHAIN_DATA", help="Folder of datasets; relative data paths are looked up there first.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder  \\[default: build/<recipe name>]")]
CacheOption = Annotated[Path | None, typer.Option(
    "--cache", help="Folder of finished stages, to share them between builds  \\[default: OUT/stages]")]


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """One recipe in, measured engines out."""


@app.command()
def build(
    recipe: RecipeArgument, out: OutOption = None, set_: SetOption = None, imports: ImportOption = None,
    data_root: RootOption = None, cache: CacheOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the final table.")] = False,
) -> None:
    """Build every engine of RECIPE and report its true accuracy, latency and storage.

    Finished stages are kept: after Ctrl-C, a crash or a full disk the same command goes on where it stopped, and a
    repeated build does nothing. Everything lies under --out: report.html, report.md, report.json, engines/, onnx/.
    """
    from toolchain.commands import run_build

    raise typer.Exit(run_build(recipe, set_ or [], imports or [], data_root, out, cache, quiet))


@app.command()
def plan(
    recipe: RecipeArgument, out: OutOption = None, set_: SetOption = None, imports: ImportOption = None,
    data_root: RootOption = None, cache: CacheOption = None,
) -> None:
    """Show what `build` would do: the stages, which are cached, what each needs and what is missing."""
    from toolchain.commands import run_plan

    raise typer.Exit(run_plan(recipe, set_ or [], imports or [], data_root, out, cache))


@app.command()
def validate(recipe: RecipeArgument, set_: SetOption = None, imports: ImportOption = None) -> None:
    """Check RECIPE and name every mistake at once: file, line, field, value, what is allowed."""
    from toolchain.commands import open_recipe

    print(f"{recipe}: valid recipe '{open_recipe(recipe, set_ or [], imports or []).name}'")


@app.command()
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


@app.command()
def compare(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Build folder, DIR:ENGINE, or an .onnx file.")],
    students: Annotated[list[str], typer.Argument(metavar="STUDENT", help="The same; as many as you like.")],
    engine: Annotated[str | None, typer.Option(
        "--engine", metavar="NAME",
        help="Engine of the builds that name none  \\[default: fp32 on ONNX Runtime]")] = None,
    recipe: Annotated[Path | None, typer.Option(
        "--recipe", metavar="RECIPE",
        help="Its data, seed and measure.fidelity are used  \\[default: the first build's data]")] = None,
    data_root: RootOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Output folder  \\[default: build/compare]")] = None,
    gradcam: Annotated[bool, typer.Option(
        "--gradcam/--no-gradcam", help="Also compare where the float networks of builds look.")] = True,
    jitter: Annotated[bool, typer.Option(
        "--jitter", help="Also judge on a colour-jittered test set, the same for all.")] = False,
    imports: ImportOption = None,
) -> None:
    """Say how near each STUDENT is to TEACHER, and whether the students differ.

    All answer the same test images in the same order. Per student: top-1,
    KL(teacher, student) in nats, JS, agreement, and the cosine of Grad-CAM
    maps beside that of a random network. Name the student that learned without
    a teacher first: the others are compared with it, image by image, and where
    the 95 % interval of a difference holds 0 it says "no difference".

    An .onnx file is given the same pixels, and has no Grad-CAM. Results, in
    --out: compare.md, compare.json, compare.npz (per image) and gradcam.png.

    \b
      toolchain compare build/teacher build/independent build/taught
      toolchain compare build/vgg11_int8 build/vgg11_int8:int8.onnxruntime.cpu_x86
      toolchain compare teacher.onnx student.onnx --recipe recipes/vgg11_int8.yaml
    """
    from toolchain.commands import run_compare

    raise typer.Exit(run_compare(teacher, students, engine, recipe, data_root, out, gradcam, jitter, imports or []))


@app.command()
def sensitivity(
    recipe: RecipeArgument,
    of: Annotated[str | None, typer.Option(
        "--of", metavar="KINDS", help="weights, channels, quantize, or several with commas  \\[default: all of them; "
                                      "quantize for your own ONNX file]")] = None,
    ratios: Annotated[str | None, typer.Option(
        "--ratios", metavar="RATIOS", help="Shares to prune, rising  \\[default: 0.1,0.3,0.5,0.7,0.9]")] = None,
    images: Annotated[int | None, typer.Option(
        "--images", min=1, help="Images of val, drawn by the recipe's seed  \\[default: 1000]")] = None,
    jobs: Annotated[int | None, typer.Option(
        "--jobs", min=1, help="Processes; the result is the same  \\[default: one a core, if worth it]")] = None,
    set_: SetOption = None, data_root: RootOption = None, out: OutOption = None, cache: CacheOption = None,
    imports: ImportOption = None,
) -> None:
    """Say how much accuracy each layer of RECIPE's student costs when it alone is pruned or quantized.

    The student is trained first, or taken from what `build` left in the same
    --out; the recipe's pruning is left out. Then each layer in turn loses its
    smallest weights, or its least salient channels, or computes in INT8 or
    INT4, without fine-tuning, and val is judged. After Ctrl-C the same command
    goes on.

    \b
      toolchain sensitivity recipes/vgg11_int8.yaml
      toolchain sensitivity recipes/vgg11_int8.yaml --of channels --ratios 0.25,0.5
      toolchain sensitivity recipes/own_onnx.yaml --of quantize --data-root DATA

    Results, in --out/sensitivity: sensitivity.html (heat map and curves),
    sensitivity.md and sensitivity_KIND.json. What to do with them is printed:
    scope: sensitivity and method: greedy of the prune section read them, and
    scan by themselves where no file is given.
    """
    from toolchain.commands import run_sensitivity

    raise typer.Exit(run_sensitivity(
        recipe, of, ratios, images, jobs, set_ or [], data_root, out, cache, imports or []))


@app.command()
def blame(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished build, such as build/vgg11_int8")],
    engine: Annotated[str | None, typer.Option(
        "--engine", metavar="NAME", help="Which quantized engine  \\[default: int8 on ONNX Runtime]")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Images of val, drawn by the build's seed.")] = 128,
    apply: Annotated[Path | None, typer.Option(
        "--apply", metavar="RECIPE", help="Write the proposed edit into this recipe, of which RUN was built.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print blame.json instead of the table.")] = False,
    data_root: RootOption = None,
) -> None:
    """Say which layer of a quantized engine costs the answers most, why, and what to write into the recipe.

    Each layer in turn is quantized alone, with the codes and scales of the
    engine's own ONNX file, and the answers are compared with the float
    network's. A layer whose scale does not fit stands first. The proposed edit
    was tried on val; --apply writes it, keeping comments and order, and shows
    the difference. An engine that cannot run here (TensorRT) is judged by its
    ONNX file, in ONNX Runtime.

    \b
      toolchain blame build/vgg11_int8
      toolchain blame build/vgg11_int8 --engine int4.onnxruntime.cpu_x86
      toolchain blame build/vgg11_int8 --apply recipes/vgg11_int8.yaml

    Results, in RUN/blame: blame.md and blame.json, with PyTorch module, ONNX
    nodes and engine layer of each layer.
    """
    from toolchain.commands import run_blame

    raise typer.Exit(run_blame(run, engine, images, apply, json_, data_root))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors (toolchain schema > recipes/schema.json)."""
    import json

    from toolchain.recipe.schema import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command()
def doctor(json_: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """Say what this machine can build and run, and how to get the rest."""
    from toolchain.commands import run_doctor

    run_doctor(json_)


@app.command()
def explain(
    topic: Annotated[Literal["formats"], typer.Argument(metavar="TOPIC", help="formats")],
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="Whose network is shown in them.")] = None,
    set_: SetOption = None, imports: ImportOption = None, data_root: RootOption = None, out: OutOption = None,
    cache: CacheOption = None, json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what number formats from FP32 to INT4 can hold, and what is often told wrongly about them.

    With RECIPE: what its student in --out, or a fresh one, would lose in each, layer by layer. Nothing is trained.
    """
    from toolchain.commands import run_explain_formats

    run_explain_formats(recipe, set_ or [], imports or [], data_root, out, cache, json_)


@app.command()
def calib(
    recipe: RecipeArgument,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images, class-balanced, from train.")] = 512,
    out: Annotated[Path | None, typer.Option("--out", help="Folder  \\[default: calib_data/<recipe name>]")] = None,
    set_: SetOption = None, data_root: RootOption = None,
) -> None:
    """Make a calibration set from RECIPE's training images: uint8 arrays and a manifest with their SHA-256."""
    from toolchain.commands import run_calib

    run_calib(recipe, set_ or [], data_root, images, out)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; a ToolchainError becomes one message."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TOOLCHAIN_DEBUG"))
    try:
        app([w for w in words if w != "--debug"], prog_name="toolchain")
    except ToolchainError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _stop_at_once("interrupted; finished stages are kept, the same command goes on from here", INTERRUPTED)
        raise
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        print(f"internal error: {type(error).__name__}: {error}\nThis is a bug in toolchain: please report it with the "
              "traceback that --debug shows.", file=sys.stderr)
        sys.exit(70)


def _stop_at_once(message: str, code: int) -> None:
    """Leave without waiting for worker threads of the runtimes."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)

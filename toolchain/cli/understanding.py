"""The commands that look at finished builds and networks, and say why they are as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import CacheOption, ImportOption, OutOption, RecipeArgument, RootOption, SetOption, app


@app.command(rich_help_panel="Understand")
def compare(
    teacher: Annotated[str, typer.Argument(
        metavar="TEACHER", help="Build folder, DIR:ENGINE (its name, or int8 if one int8 engine runs here), or an "
                                ".onnx file.")],
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


@app.command(rich_help_panel="Understand")
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


@app.command(rich_help_panel="Understand")
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

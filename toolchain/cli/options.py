"""The command line's own settings, and the options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain import __version__

app = typer.Typer(
    name="toolchain", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One recipe in, measured engines out: train, prune, quantize, export, build, measure and report.",
    epilog="Start with: [bold]toolchain build recipes/vgg11_int8.yaml[/bold]   Exit codes: 0 done, 2 recipe, 3 data, "
           "4 training, 5 ONNX, 6 engine, 7 package missing, 8 altered file, 9 output folder, 10 limit not held, "
           "11 regression, 12 not enough evidence, 13 bundle refused, 14 device, "
           "130 interrupted (a build goes on by the same command).")

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
FileOption = Annotated[Path | None, typer.Option(
    "--devices", envvar="TOOLCHAIN_DEVICES", metavar="FILE",
    help="Where devices are listed  \\[default: devices.yaml here, else ~/.config/toolchain/devices.yaml]")]


def _say_version(asked: bool) -> None:
    if asked:
        print(f"toolchain {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option(
        "--version", is_eager=True, callback=_say_version,
        help="Say the version (`toolchain doctor` names those of packages too).")] = False,
) -> None:
    """One recipe in, measured engines out."""

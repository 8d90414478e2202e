"""The commands that hold finished builds against what they were before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import app

RunArgument = Annotated[Path, typer.Argument(
    metavar="RUN", help="Folder of a finished build, such as build/vgg11_int8")]
DeviceOption = Annotated[str | None, typer.Option(
    "--device", metavar="NAME", help="What RUN did on this device, as `build --on NAME` left it in RUN/devices/NAME  "
    "\\[default: on the machine that built it]")]


@app.command(rich_help_panel="Check")
def baseline(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(
        "--out", "-o", metavar="FILE", help="The file, for git; - is stdout  \\[default: "
                                       "baselines/<recipe>.<device>.json]")] = None,
    device: DeviceOption = None,
) -> None:
    """Write down what RUN is, for `check` to compare later runs with: a small text file for git, one for each device.

    It holds each engine's answer to every test image (packed), sizes, memory,
    speed-up over FP32 by round, and where they were measured. Write it anew,
    and commit it, when a change is meant.

    \b
      toolchain baseline build/vgg11_int8 -o vgg11.json
      toolchain baseline build/vgg11_int8 --device orin -o vgg11.orin.json
    """
    from toolchain.commands_check import run_baseline

    run_baseline(run, out, device)


@app.command(rich_help_panel="Check")
def check(
    run: RunArgument,
    baseline: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="What `toolchain baseline` wrote.")],
    device: DeviceOption = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML; - is stdout.")] = None,
    json_: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Write every figure as JSON; - is stdout.")] = None,
    github: Annotated[bool, typer.Option(
        "--github", help="Print GitHub's annotations; add a table to the job's summary.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Show each quantity that passes, with its figures.")] = False,
    margin: Annotated[float, typer.Option(help=(
        "Points of top-1, the drop that must not pass unseen: 0.5 is 5 images more wrong of 1,000. A drop within "
        "chance passes if it is surely below this; if it may be more, evidence is missing (12). A drop beyond chance "
        "is a regression (11), unless surely below a fifth of this. Example: --margin 1 lets twice as much go, and "
        "needs about a quarter of the test images."))] = 0.5,
    alpha: Annotated[float, typer.Option(help="Chance of a false alarm on accuracy in one run.")] = 0.01,
    beta: Annotated[float, typer.Option(help="Chance that a drop as large as the margin is missed.")] = 0.1,
    latency: Annotated[float, typer.Option(help="Percent slower that pass, by the ratio to FP32.")] = 10.0,
    no_latency: Annotated[bool, typer.Option(
        "--no-latency", help="Show latency and do not judge it, as on a machine that others use.")] = False,
    size: Annotated[float, typer.Option(help="Percent larger that pass, of engine file and weights.")] = 1.0,
    memory: Annotated[float, typer.Option(help="Percent more peak memory that pass, and up to 4 MB always.")] = 25.0,
) -> None:
    """Hold RUN against a baseline: pass, regression (exit code 11), or not enough evidence (12).

    Top-1 is compared image by image: overall, class by class, and against
    FP32 of the same run; one false alarm in a run has a chance of --alpha over
    all these tests together. Latency is compared by its ratio to FP32, with an
    interval, and like peak memory only under equal conditions. Where evidence
    is missing, the number of images or rounds that would decide is said, and
    whose they are. Files of RUN that were altered are refused (8), and missing
    ones (9); so is a baseline of another device, or of other test images (3).
    With --device, what engines did on a device is judged by the same rules: its
    own FP32 engines, conditions and golden answers.

    \b
      toolchain baseline build/vgg11_int8 -o vgg11.json
      toolchain check build/vgg11_int8 --baseline vgg11.json --junit check.xml
      toolchain check build/vgg11_int8 --baseline vgg11.json --margin 1 --all
      toolchain check build/vgg11_int8 --device orin --baseline vgg11.orin.json
    """
    from toolchain.check.finding import Tolerances
    from toolchain.commands_check import run_check

    asked = Tolerances(margin, alpha, beta, None if no_latency else latency, size, memory)
    raise typer.Exit(run_check(run, baseline, asked, junit, github, json_, all_, device))

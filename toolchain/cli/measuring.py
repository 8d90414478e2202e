"""The command that times files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import FileOption, app


@app.command(rich_help_panel="Check")
def bench(
    files: Annotated[list[str], typer.Argument(
        metavar="FILE...", help="Build folder (all its engines), DIR:ENGINE (its name, or int8 if one int8 engine "
                              "runs here), an engine's folder, or an .onnx file.")],
    on: Annotated[list[str] | None, typer.Option(
        "--on", metavar="DEVICE", help="Time them there: a device of devices.yaml; may stand several times.")] = None,
    runtime: Annotated[str | None, typer.Option(
        "--runtime", metavar="NAMES", help="What runs .onnx files, or several with commas: here onnxruntime, "
        "tensorrt_rtx, tensorrt, openvino  \\[default: onnxruntime]; on a device onnxruntime, tensorrt  \\[default: as "
        "devices.yaml says, else TensorRT where it is]")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of one run.")] = 1,
    threads: Annotated[int | None, typer.Option(
        "--threads", min=1, help="CPU threads  \\[default: the physical cores]")] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=1, help="Untimed runs of each first.")] = 20,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Each times every file, in random order.")] = 20,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs of one file in one round.")] = 20,
    attempts: Annotated[int, typer.Option(
        "--attempts", min=1, help="Measurements at most, while one is inconclusive.")] = 2,
    size: Annotated[int | None, typer.Option(
        "--image-size", min=1, help="Pixels of a side, for .onnx files that leave them open.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every figure as JSON.")] = None,
    devices: FileOption = None,
) -> None:
    """Time engines and ONNX files side by side, and say whether the times can be trusted.

    All are timed in the same rounds, in random order, so that they share the
    machine's weather; the first one is also timed against itself. Beside each
    time stands valid or inconclusive, with the cause: other processes,
    throttling, a machine that grows slower. Nothing is built but for .onnx
    files, which are run as they are.

    \b
      toolchain bench build/vgg11_int8
      toolchain bench build/old:int8 build/new:int8
      toolchain bench build/old:int8.openvino.cpu_x86 model.onnx
      toolchain bench model.onnx --runtime onnxruntime,openvino --batch 8
      toolchain bench build/vgg11_int8 model.onnx --on orin
    """
    from toolchain.commands_bench import run_bench

    runtimes = [name.strip() for name in runtime.split(",")] if runtime is not None else None
    run_bench(files, runtimes, batch=batch, threads=threads, warmup=warmup, rounds=rounds, runs=runs,
              attempts=attempts, size=size, json_file=json_, on=on or (), devices=devices)

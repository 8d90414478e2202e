"""What engines start from: for each precision a float ONNX file, and the ranges that make codes of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from toolchain.errors import RecipeError, nearest
from toolchain.recipe.schema import Gpfq, HalfFinetune, Qat
from toolchain.steps.gpfq import gpfq_quantized
from toolchain.steps.graphs import calibrated
from toolchain.steps.job import Job
from toolchain.steps.repairing import repaired
from toolchain.steps.tuning import fine_tuned_quantized, half_tuned
from toolchain.workdir import Stage

TRAINED: tuple[Literal["int8"], Literal["int4"]] = "int8", "int4"
Start = tuple[Stage, Stage | None]  # the stage with model.onnx; the one with ranges.json, None: rounded as they are


def quantized(job: Job, onnx: Stage, student: Stage | None, precisions: Collection[str]) -> dict[str, Start]:
    """precision -> what its engines start from, for those asked for, as job.recipe.quantize says.

    onnx: the clean float network. student: its PyTorch form, None for a user's own ONNX file. Raises RecipeError for
    names of layers that it has not, TrainError, DataError, OnnxError.
    """
    _refuse_unknown(job, onnx)
    ranges = calibrated("calibrate", job, onnx)
    starts: dict[str, Start] = {p: (onnx, ranges if p in ("int8", "fp8") else None) for p in precisions}
    if isinstance(job.recipe.quantize, Gpfq):
        return starts | gpfq_quantized(job, onnx, precisions)
    if isinstance(job.recipe.quantize, Qat) and student:
        asked: list[Literal["int8", "int4"]] = [p for p in TRAINED if p in precisions]
        return starts | {p: fine_tuned_quantized(job, student, onnx, ranges, p) for p in asked}
    if isinstance(job.recipe.quantize, HalfFinetune) and student:
        return starts | {job.recipe.quantize.dtype: (half_tuned(job, student), None)}
    if "int8" in precisions:
        starts["int8"] = repaired(job, onnx, ranges)
    if "int4" in precisions:
        starts["int4"] = repaired(job, onnx, ranges, "int4")[0], None
    return starts


def _refuse_unknown(job: Job, onnx: Stage) -> None:
    """Refuse a keep_float of what is no layer, by the recipe's own field. Of a recipe's own network it was told before
    training; those of an ONNX file, and the factors of a low-rank one, show only now.
    """
    sections = {"int8": job.recipe.quantize.int8.keep_float, "int4": job.recipe.quantize.int4.keep_float}
    path = onnx.folder / "model.onnx"
    if not any(sections.values()) or not path.is_file():  # not there: a dry run
        return
    from toolchain.graph.layers import layers
    from toolchain.graph.onnx_file import read_onnx

    known = [layer.name for layer in layers(read_onnx(path).graph)]
    for section, names in sections.items():
        for name in names:
            if name not in known:
                raise RecipeError(f"quantize.{section}.keep_float: found '{name}', expected names of layers "
                                  f"({', '.join(known)}){nearest(name, known)}")

"""Fine-tuning for one kind of engine: QAT for INT8 or INT4, half-precision weights for FP16 or BF16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolchain.files import write_text
from toolchain.recipe.schema import HalfFinetune, Qat
from toolchain.steps.fitting import keep_history, val_top1
from toolchain.steps.graphs import calibrated, exported
from toolchain.steps.job import ONNX_PACKAGES, TRAINING_PACKAGES, TRAINING_ROOMS, Job, plain
from toolchain.workdir import Stage, rank

if TYPE_CHECKING:
    from torch import nn

ROOMS = ("prune/zeros.py", *TRAINING_ROOMS)
QAT_ROOMS = (
    *(f"quantize/{file}.py" for file in ("qat", "fake_quant", "ste", "lsq", "modelopt", "calibrate")),
    "distill/divergence.py", "graph/int4.py", "graph/qdq.py", "graph/layers.py", *ROOMS)


def fine_tuned_quantized(
    job: Job, student: Stage, onnx: Stage, ranges: Stage, precision: Literal["int8", "int4"]
) -> tuple[Stage, Stage | None]:
    """The float file and the ranges that engines of this precision start from after QAT; None: ranges follow from it.

    onnx, ranges: the student before, where the training starts. The stage holds model.safetensors and learned.json.
    """
    cfg, seed = job.recipe.quantize, job.recipe.seed + 2
    assert isinstance(cfg, Qat)

    def make(folder: Path) -> str:
        from toolchain.quantize.calibrate import input_amax, read_by
        from toolchain.quantize.qat import qat
        from toolchain.ranges import Ranges

        path = onnx.folder / "model.onnx"
        start = input_amax(Ranges.load(ranges.folder / "ranges.json"), path)
        model, learned, history = qat(_folded(student), job.dataset(), cfg, start, folder=folder, seed=seed,
                                      precision=precision, reads=read_by(path))
        if rank() == 0:
            write_text(folder / "learned.json", json.dumps(learned, indent=1, sort_keys=True))
            _keep(folder, student, model, history)
        reached = val_top1(model, job.dataset(), cfg.train, history)  # the fake-quantized network's
        return f"{len(history)} epochs, fake-quantized val top-1 {reached:.2f} %"

    unseen = "calibration", "mixed", "int4" if precision == "int8" else "int8"  # sections
    tuned = job.work.stage(
        f"qat_{precision}", make, section=[precision, plain(cfg, *unseen), seed],
        inputs=[student, job.data, onnx, ranges], rooms=QAT_ROOMS,
        packages=["nvidia-modelopt", *TRAINING_PACKAGES], distributed=True)
    trained = exported(f"export_qat_{precision}", job, tuned)
    if precision == "int8":
        return trained, calibrated("calibrate_qat", job, trained, learned=tuned)
    return trained, _learned_blocks(job, trained, tuned) if cfg.learn.method == "lsq" else None


def half_tuned(job: Job, student: Stage) -> Stage:
    """The student with weights trained for FP16 or BF16, as one clean float ONNX file."""
    cfg, seed = job.recipe.quantize, job.recipe.seed + 2
    assert isinstance(cfg, HalfFinetune)

    def make(folder: Path) -> str:
        from toolchain.quantize.half import half_finetune

        model, history = half_finetune(_folded(student), job.dataset(), cfg, folder=folder, seed=seed)
        if rank() == 0:
            _keep(folder, student, model, history)
        reached = val_top1(model, job.dataset(), cfg.train, history)
        return f"{len(history)} epochs, {cfg.dtype} val top-1 {reached:.2f} %"

    tuned = job.work.stage(
        "half_finetune", make, section=[cfg.dtype, plain(cfg.train), seed], inputs=[student, job.data],
        rooms=["quantize/half.py", *ROOMS], packages=TRAINING_PACKAGES, distributed=True)
    return exported("export_half", job, tuned)


def _learned_blocks(job: Job, trained: Stage, tuned: Stage) -> Stage:
    """Ranges (ranges.json) of the INT4 blocks alone, checked against the file that they belong to."""
    def make(folder: Path) -> str:
        from toolchain.quantize.calibrate import overlay
        from toolchain.ranges import Ranges

        learned = json.loads((tuned.folder / "learned.json").read_text(encoding="utf-8"))
        overlay(Ranges({}), learned, trained.folder / "model.onnx").save(folder / "ranges.json")
        return f"{len(learned)} layers"

    return job.work.stage("ranges_qat_int4", make, inputs=[trained, tuned],
                          rooms=["quantize/calibrate.py", "ranges.py"], packages=ONNX_PACKAGES)


def _folded(student: Stage) -> nn.Module:
    from toolchain.models.fold import fold_batchnorm
    from toolchain.models.store import load_model

    return fold_batchnorm(load_model(student.folder))


def _keep(folder: Path, student: Stage, model: nn.Module, history: list[dict[str, Any]]) -> None:
    from toolchain.models.store import load_architecture, save_model

    save_model(folder, model, {**load_architecture(student.folder), "folded": True})
    keep_history(folder, history)

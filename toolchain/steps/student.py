"""The PyTorch side of a build: teacher, training or distillation, pruning, QAT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import RecipeError
from toolchain.files import sha256_file, write_text
from toolchain.recipe.load import load_recipe, locate
from toolchain.recipe.schema import OnnxModel, Qat, TeacherRecipe, TorchModel, Train
from toolchain.steps.job import TRAINING_PACKAGES, TRAINING_ROOMS, Job, open_job, plain
from toolchain.workdir import Stage, rank

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset

LossFor = Callable[[Train], Any]


def float_student(job: Job) -> Stage:
    """The float student: trained or distilled, then pruned if the recipe says so."""
    recipe = job.recipe
    assert isinstance(recipe.model, TorchModel)
    if recipe.distill is None:
        return _prune(job, _train("train", job, recipe.model, recipe.train), [], _label_loss)
    teacher = _teacher(job)
    distill = recipe.distill

    def loss(cfg: Train) -> Any:
        from toolchain.distill import distillation_loss
        from toolchain.models.store import load_model

        return distillation_loss(distill, load_model(teacher.folder), cfg.label_smoothing)

    student = _train("train", job, recipe.model, recipe.train, [teacher], [plain(distill, "teacher")], loss)
    return _prune(job, student, [teacher], loss)


def fine_tuned_quantized(job: Job, student: Stage, float_onnx: Stage, ranges: Stage) -> Stage:
    """The student after QAT: float weights (model.safetensors) and the ranges it learned (learned.json)."""
    cfg, seed = job.recipe.quantize, job.recipe.seed + 2
    assert isinstance(cfg, Qat)

    def make(folder: Path) -> str:
        from toolchain.models.fold import fold_batchnorm
        from toolchain.models.store import load_architecture, load_model, save_model
        from toolchain.quantize.calibrate import input_amax
        from toolchain.quantize.qat import qat
        from toolchain.ranges import Ranges

        start = input_amax(Ranges.load(ranges.folder / "ranges.json"), float_onnx.folder / "model.onnx")
        folded = fold_batchnorm(load_model(student.folder))
        model, learned, history = qat(folded, job.dataset(), cfg, start, folder=folder, seed=seed)
        if rank() == 0:
            save_model(folder, model, {**load_architecture(student.folder), "folded": True})
            write_text(folder / "learned.json", json.dumps(learned, indent=1, sort_keys=True))
            _keep_history(folder, history)
        return f"{len(history)} epochs, {len(learned)} layers, fake-quantized val top-1 {history[-1]['val_top1']:.2f} %"

    return job.work.stage(
        "qat", make, section=[plain(cfg, "calibration"), seed], inputs=[student, job.data, float_onnx, ranges],
        rooms=["quantize", *TRAINING_ROOMS], packages=["nvidia-modelopt", *TRAINING_PACKAGES],
        distributed=True)


def _label_loss(cfg: Train) -> Any:
    return None  # fit's own: cross-entropy with cfg.label_smoothing


def _teacher(job: Job) -> Stage:
    """The teacher network: given inline, or the unpruned student that its own recipe describes."""
    assert job.recipe.distill is not None
    teacher = job.recipe.distill.teacher
    if not isinstance(teacher, TeacherRecipe):
        return _train("teacher", job, teacher.model, teacher.train)
    path = locate(teacher.recipe, job.base, "distill.teacher.recipe")
    own = load_recipe(path)
    if isinstance(own.model, OnnxModel):
        raise RecipeError(f"{path}: a teacher needs model.arch, found model.onnx; choose a recipe with model.arch")
    if own.distill is not None:
        raise RecipeError(f"{path}: a distilled network cannot teach; remove its distill section")
    own_job = open_job(own, job.work, path.parent, job.roots, job.imports, "teacher_data")
    return _train("teacher", own_job, own.model, own.train)


def _train(
    name: str, job: Job, model: TorchModel, cfg: Train, teachers: Sequence[Stage] = (), section: Sequence[Any] = (),
    loss: LossFor = _label_loss,
) -> Stage:
    seed, digests = job.recipe.seed, [sha256_file(path) for path in job.imports]
    if model.weights and model.weights != "torchvision":
        weights = locate(model.weights, job.base, "model.weights")
        model = model.model_copy(update={"weights": str(weights)})
        digests.append(sha256_file(weights))

    def make(folder: Path) -> str:
        import torch

        from toolchain.models import create_model
        from toolchain.models.store import save_model

        torch.manual_seed(seed)
        classes = len(job.dataset().classes)
        network = create_model(model, classes, job.recipe.data.image_size)
        summary = _fit(network, job.dataset(), cfg, folder, seed, loss(cfg), name)
        if rank() == 0:
            built = model.model_copy(update={"weights": None}).model_dump(mode="json")
            save_model(folder, network, {"model": built, "num_classes": classes, "pruned": None, "folded": False})
        return summary

    downloaded = model.weights == "torchvision"
    return job.work.stage(
        name, make, section=[plain(model, "weights"), downloaded, plain(cfg), seed, digests, section],
        inputs=[job.data, *teachers], rooms=["distill", *TRAINING_ROOMS],
        packages=["torchvision", *TRAINING_PACKAGES], distributed=True)


def _prune(job: Job, student: Stage, teachers: Sequence[Stage], loss: LossFor) -> Stage:
    cfg, size, seed = job.recipe.prune, job.recipe.data.image_size, job.recipe.seed + 1
    if cfg is None:
        return student

    def make(folder: Path) -> str:
        from toolchain.models.store import load_architecture, load_model, save_model
        from toolchain.prune import prune

        model, history = prune(load_model(student.folder), cfg, size)
        tune = cfg.finetune
        summary = _fit(model, job.dataset(), tune, folder, seed, loss(tune), "prune: fine-tune")
        if rank() == 0:
            save_model(folder, model, {**load_architecture(student.folder), "pruned": history})
        return summary

    distill = [plain(job.recipe.distill, "teacher")] if job.recipe.distill else []
    return job.work.stage(
        "prune", make, section=[plain(cfg), seed, size, distill], inputs=[student, job.data, *teachers],
        rooms=["prune", "distill", *TRAINING_ROOMS], packages=["torch-pruning", *TRAINING_PACKAGES],
        distributed=True)


def _fit(model: nn.Module, dataset: Dataset, cfg: Train, folder: Path, seed: int, loss: Any, title: str) -> str:
    """Train in place, keep the history beside the model, and say how it went."""
    from toolchain.train import evaluate, fit

    history = fit(model, dataset, cfg, folder=folder, seed=seed, loss=loss, title=title)
    top1 = history[-1]["val_top1"] if history else evaluate(model, dataset.val, dataset.preprocess, cfg.batch_size)
    if rank() == 0:
        _keep_history(folder, history)
    return f"{len(history)} epochs, val top-1 {top1:.2f} %"


def _keep_history(folder: Path, history: Any) -> None:
    write_text(folder / "history.json", json.dumps(history, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the finished model stands beside it

"""Who teaches: the teacher of a recipe as a stage, and the loss it makes for one training run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.errors import RecipeError, TrainError
from toolchain.files import write_text
from toolchain.recipe.distill import Mutual
from toolchain.recipe.load import load_recipe, locate
from toolchain.recipe.schema import (
    OnnxModel,
    TeacherCheckpoint,
    TeacherInline,
    TeacherOnnx,
    TeacherRecipe,
    TorchModel,
    Train,
)
from toolchain.steps.job import ONNX_PACKAGES, TRAINING_PACKAGES, Job, open_job, plain
from toolchain.workdir import Stage, rank, sha256_tree

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data.preprocess import Preprocess
    from toolchain.train import Loss

TWINS_APART = 1_000_003
# trains a network as its own stage; given by student.py, which also trains students
TrainStage = Callable[[str, Job, TorchModel, Train], Stage]


@dataclass(frozen=True)
class Teacher:
    """A teacher under way: its stage, and the data stage whose normalisation it expects (or the values themselves)."""

    stage: Stage
    data: Stage
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def load(self, job: Job) -> nn.Module:
        """The frozen network. Raises TrainError, EngineError."""
        from toolchain.distill.teacher import load_teacher

        expected = preprocessing(self.data)
        return load_teacher(self.stage.folder, preprocessing(job.data),
                            (self.mean or expected.mean, self.std or expected.std))


def preprocessing(data: Stage) -> Preprocess:
    """What a data stage recorded."""
    from toolchain.data.preprocess import Preprocess

    return Preprocess.load(data.folder / "preprocess.json")


def teacher_of(job: Job, train: TrainStage) -> Teacher | None:
    """Who teaches the student of job.recipe, or is only compared with it (measure.fidelity.teacher); None: nobody.

    Raises RecipeError, DataError, TrainError, OnnxError.
    """
    fidelity = job.recipe.measure.fidelity
    asked = getattr(job.recipe.distill, "teacher", None) or (fidelity.teacher if fidelity else None)
    if isinstance(asked, TeacherInline):
        return Teacher(train("teacher", job, asked.model, asked.train), job.data)
    if isinstance(asked, TeacherRecipe):
        return _from_recipe(job, asked, train)
    if isinstance(asked, TeacherCheckpoint):
        return Teacher(_from_checkpoint(job, asked), job.data, asked.mean, asked.std)
    if isinstance(asked, TeacherOnnx):
        return Teacher(_from_onnx(job, asked), job.data, asked.mean, asked.std)
    return None


@contextmanager
def lesson(job: Job, teacher: Teacher | None, student: nn.Module, cfg: Train, folder: Path) -> Iterator[Loss]:
    """The loss for training `student` in the block; afterwards the teacher's weights are proven unchanged.

    Of peers that taught each other the best one on val is then in `student`. Raises TrainError.
    """
    from toolchain.checkpoint import state_sha256
    from toolchain.distill import distillation_loss
    from toolchain.distill.objective import Setting

    distill = job.recipe.distill
    assert distill is not None
    network = teacher.load(job) if teacher else None
    before = state_sha256(network) if network else None
    setting = Setting(student, network, job.dataset(), cfg, partial(fresh_student, job), folder)
    loss = distillation_loss(distill, setting)
    yield loss
    if network and state_sha256(network) != before:
        raise TrainError("distill: the teacher's weights changed while it taught; this is a bug, please report it")
    taught: dict[str, Any] = {"method": distill.method, "teacher_sha256": before}
    if isinstance(distill, Mutual):
        from toolchain.distill.mutual import best_peer
        from toolchain.train import evaluate

        data = job.dataset()
        taught |= best_peer(student, loss, lambda peer: evaluate(peer, data.val, data.preprocess, cfg.batch_size))
        console.log(f"  peers: val top-1 {', '.join(f'{top1:.2f}' for top1 in taught['peers_val_top1'])} %, mean "
                    f"{taught['mean']:.2f} %; the best one is kept")
    if rank() == 0:
        write_text(folder / "taught.json", json.dumps(taught, indent=1))
        shutil.rmtree(folder / "teacher_outputs", ignore_errors=True)


def check_lesson(job: Job, teacher: TorchModel) -> None:
    """Try the method on untrained networks: a wrong layer then costs no training of the teacher. Raises TrainError."""
    from toolchain.distill import distillation_loss
    from toolchain.distill.objective import Setting
    from toolchain.models import create_model

    data, recipe = job.dataset(), job.recipe
    if getattr(recipe.distill, "teacher", None) is None:
        return  # it is only compared
    assert recipe.distill is not None
    untrained = create_model(teacher.model_copy(update={"weights": None}), len(data.classes), recipe.data.image_size)
    setting = Setting(fresh_student(job, 0), untrained, data, recipe.train, partial(fresh_student, job))
    distillation_loss(recipe.distill, setting)


def fresh_student(job: Job, number: int) -> nn.Module:
    """The n-th twin of the recipe's student: 0 is initialised as the student itself is, each other one differently."""
    import torch

    from toolchain.models import create_model

    assert isinstance(job.recipe.model, TorchModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.recipe.seed + TWINS_APART * number)  # no seed a user would try next
        return create_model(job.recipe.model, len(job.dataset().classes), job.recipe.data.image_size)


def _from_recipe(job: Job, asked: TeacherRecipe, train: TrainStage) -> Teacher:
    path = locate(asked.recipe, job.base, "distill.teacher.recipe")
    own = load_recipe(path)
    if isinstance(own.model, OnnxModel):
        raise RecipeError(f"{path}: this teacher is an ONNX file; name it as distill.teacher.onnx: {own.model.onnx}")
    if own.distill is not None:
        raise RecipeError(f"{path}: this teacher is itself distilled; build it first, then name its network as "
                          f"distill.teacher.checkpoint: build/{own.name}/student")
    if own.data.image_size != job.recipe.data.image_size:
        raise RecipeError(f"{path}: its teacher sees {own.data.image_size} pixels, the student "
                          f"{job.recipe.data.image_size}; both must see the same: change data.image_size in one")
    own_job = open_job(own, job.work, path.parent, job.roots, job.imports, "teacher_data")
    if not job.work.dry:
        _same_classes(path, own_job.data, job.data)
    return Teacher(train("teacher", own_job, own.model, own.train), own_job.data)


def _same_classes(path: Path, own: Stage, student: Stage) -> None:
    theirs, ours = (json.loads((s.folder / "data.json").read_text())["classes"] for s in (own, student))
    if theirs != ours:
        odd = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
        seen = f"first difference: '{odd[0]}' there, '{odd[1]}' here" if odd else "the others are equal"
        raise RecipeError(f"{path}: its teacher knows {len(theirs)} classes, the student is to learn {len(ours)} "
                          f"({seen}); use a teacher of the same classes")


def _from_checkpoint(job: Job, asked: TeacherCheckpoint) -> Stage:
    """A copy of the user's checkpoint in our form, after it was loaded once."""
    path = locate(asked.checkpoint, job.base, "distill.teacher.checkpoint")
    if path.is_file() and asked.model is None:
        raise RecipeError(f"distill.teacher.checkpoint: {path.name} does not say which network its weights belong to; "
                          "add distill.teacher.model, such as {arch: vgg16_bn}, or name the student folder of a build")

    def make(folder: Path) -> str:
        from toolchain.models import create_model
        from toolchain.models.store import load_architecture, load_model, save_model

        classes = len(job.dataset().classes)
        if path.is_dir():
            model, architecture = load_model(path), load_architecture(path)
            if asked.model and asked.model.arch != architecture["model"]["arch"]:
                raise TrainError(f"distill.teacher.model: found arch {asked.model.arch}, but {path} holds "
                                 f"{architecture['model']['arch']}; leave distill.teacher.model out")
        else:
            assert asked.model is not None
            model = create_model(asked.model.model_copy(update={"weights": str(path)}), classes)
            built = asked.model.model_copy(update={"weights": None}).model_dump(mode="json")
            architecture = {"model": built, "num_classes": classes, "pruned": None, "folded": False}
        save_model(folder, model, architecture)
        return f"{architecture['model']['arch']} from {path.name}"

    section = [sha256_tree(path), plain(asked, "checkpoint", "mean", "std")]
    return job.work.stage("teacher", make, section=section, inputs=[job.data], rooms=["models"],
                          packages=TRAINING_PACKAGES)


def _from_onnx(job: Job, asked: TeacherOnnx) -> Stage:
    """A copy of the user's ONNX file, cleaned as our own networks are."""
    path = locate(asked.onnx, job.base, "distill.teacher.onnx")
    size = job.recipe.data.image_size

    def make(folder: Path) -> str:
        from toolchain.graph.own import read_own_onnx

        info = read_own_onnx(path, folder / "model.onnx", job.recipe.export.opset, size)
        if info["image_size"] != size:
            raise TrainError(f"{path}: its input is {info['image_size']} pixels, the student sees {size}; "
                             f"set data.image_size: {info['image_size']}")
        return f"{path.name}: {info['num_classes']} classes at {info['image_size']} pixels"

    return job.work.stage("teacher", make, section=[sha256_tree(path), size], inputs=[job.data], rooms=["graph"],
                          packages=ONNX_PACKAGES)

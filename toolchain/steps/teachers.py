"""Who teaches: the teacher that a recipe names, as a stage, whatever it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.errors import DataError, RecipeError, TrainError
from toolchain.files import write_text
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
from toolchain.steps.finished import STUDENT, check_student
from toolchain.steps.job import ONNX_PACKAGES, TRAINING_PACKAGES, Job, open_job, plain
from toolchain.workdir import Stage, sha256_tree

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data.preprocess import Preprocess

Triple = tuple[float, float, float]
# trains a network as its own stage; given by student.py, which also trains students
TrainStage = Callable[[str, Job, TorchModel, Train], Stage]

SEEN = 0.01  # share of the student's val and test images that its teacher may have been trained on: chance duplicates


@dataclass(frozen=True)
class Teacher:
    """A teacher under way: its stage, and the data stage whose normalisation it expects (or the values themselves)."""

    stage: Stage
    data: Stage
    mean: Triple | None = None
    std: Triple | None = None

    def load(self, job: Job) -> nn.Module:
        """The frozen network. Raises TrainError, EngineError."""
        from toolchain.distill.teacher import load_teacher

        expected = preprocessing(self.data.folder)
        return load_teacher(self.stage.folder, preprocessing(job.data.folder),
                            (self.mean or expected.mean, self.std or expected.std))


def preprocessing(folder: Path) -> Preprocess:
    """What a data stage recorded, or a build published."""
    from toolchain.data.preprocess import Preprocess

    return Preprocess.load(folder / "preprocess.json")


def teacher_of(job: Job, train: TrainStage) -> Teacher | None:
    """Who teaches the student of job.recipe, or is only compared with it (measure.fidelity.teacher); None: nobody.

    Raises RecipeError, DataError, TrainError, OnnxError, DigestMismatch.
    """
    fidelity = job.recipe.measure.fidelity
    asked = getattr(job.recipe.distill, "teacher", None) or (fidelity.teacher if fidelity else None)
    if isinstance(asked, TeacherInline):
        return Teacher(train("teacher", job, asked.model, asked.train), job.data)
    if isinstance(asked, TeacherRecipe):
        return _from_recipe(job, asked, train)
    if isinstance(asked, TeacherCheckpoint):
        return _from_checkpoint(job, asked)
    if isinstance(asked, TeacherOnnx):
        return Teacher(_from_onnx(job, asked), job.data, asked.mean, asked.std)
    return None


def _from_recipe(job: Job, asked: TeacherRecipe, train: TrainStage) -> Teacher:
    path = locate(asked.recipe, job.base, f"{_field(job)}.recipe")
    own = load_recipe(path)
    if isinstance(own.model, OnnxModel):
        raise RecipeError(f"{path}: this teacher is an ONNX file; name it as {_field(job)}.onnx: {own.model.onnx}")
    if own.distill is not None:
        raise RecipeError(f"{path}: this teacher is itself distilled; build it first, then name its network as "
                          f"{_field(job)}.checkpoint: build/{own.name}/{STUDENT}")
    _same_size(path, own.data.image_size, job)
    own_job = open_job(own, job.work, path.parent, [*job.roots[:-1], path.parent], job.imports, "teacher_data")
    if not job.work.dry:
        _same_classes(path, _facts(own_job.data)["classes"], job)
        if _facts(own_job.data)["split_sha256"] != _facts(job.data)["split_sha256"]:
            _judged_unseen(path, job, own_job)
    return Teacher(train("teacher", own_job, own.model, own.train), own_job.data)


def _judged_unseen(path: Path, job: Job, own: Job) -> Stage:
    """A stage that proves that the teacher of another split was not trained on what the student is judged by."""
    def make(folder: Path) -> str:
        from toolchain.data.calibration import shared_images

        split = job.dataset()
        shared = sum(shared_images(own.dataset().train, judged) for judged in (split.val, split.test))
        judges = len(split.val) + len(split.test)
        if shared > SEEN * judges:
            raise DataError(f"{path}: its teacher is trained on {shared} of the {judges} images that the student is "
                            "judged by (val and test), so no figure would be true; give both the same data section")
        write_text(folder / "unseen.json", json.dumps({"shared": shared, "judged": judges}))
        return f"{shared} of the student's {judges} val and test images are in the teacher's train split"

    return job.work.stage("teacher_unseen", make, inputs=[job.data, own.data], rooms=["data"])


def _from_checkpoint(job: Job, asked: TeacherCheckpoint) -> Teacher:
    """A copy of the user's checkpoint in our form, after it was loaded once; of a build's, with its normalisation."""
    path = locate(asked.checkpoint, job.base, f"{_field(job)}.checkpoint")
    if path.is_file() and asked.model is None:
        raise RecipeError(f"{_field(job)}.checkpoint: {path.name} does not say which network its weights belong to; "
                          f"add {_field(job)}.model, such as {{arch: vgg16_bn}}, or name the student folder of a build")
    if path.is_dir() and not (path / "architecture.json").is_file():
        inner = path / STUDENT
        instead = f"name {inner}" if (inner / "architecture.json").is_file() else "name the student folder of a build"
        raise RecipeError(f"{_field(job)}.checkpoint: {path} holds no architecture.json; {instead}, or a state dict")
    mean, std = asked.mean, asked.std
    build = path.parent
    if path.is_dir() and path.name == STUDENT and (build / "published.json").is_file():
        check_student(build)
        theirs = preprocessing(build)
        _same_size(path, theirs.image_size, job)
        mean, std = mean or theirs.mean, std or theirs.std
        if not job.work.dry and (build / "report.json").is_file():
            _same_data(path, json.loads((build / "report.json").read_text(encoding="utf-8"))["data"], job)
    return Teacher(_copied(job, asked, path), job.data, mean, std)


def _copied(job: Job, asked: TeacherCheckpoint, path: Path) -> Stage:
    def make(folder: Path) -> str:
        from toolchain.models import create_model
        from toolchain.models.store import load_architecture, load_model, save_model

        classes = len(job.dataset().classes)
        if path.is_dir():
            model, architecture = load_model(path), load_architecture(path)
            if asked.model and asked.model.arch != architecture["model"]["arch"]:
                raise TrainError(f"{_field(job)}.model: found arch {asked.model.arch}, but {path} holds "
                                 f"{architecture['model']['arch']}; leave {_field(job)}.model out")
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
    path = locate(asked.onnx, job.base, f"{_field(job)}.onnx")
    size = job.recipe.data.image_size

    def make(folder: Path) -> str:
        from toolchain.graph.ending import TOLD
        from toolchain.graph.own import read_own_onnx

        info = read_own_onnx(path, folder / "model.onnx", job.recipe.export.opset, size)
        if info["ending"] in TOLD:
            console.log(f"{path.name}: {TOLD[info['ending']]}")
        _same_size(path, info["image_size"], job)
        return f"{path.name}: {info['num_classes']} classes at {info['image_size']} pixels"

    return job.work.stage("teacher", make, section=[sha256_tree(path), size], inputs=[job.data], rooms=["graph"],
                          packages=ONNX_PACKAGES)


def _same_size(path: Path, size: int, job: Job) -> None:
    if size != job.recipe.data.image_size:
        raise RecipeError(f"{path}: this teacher sees {size} pixels, the student {job.recipe.data.image_size}; both "
                          "must see the same: change data.image_size in one")


def _same_data(path: Path, theirs: dict[str, Any], job: Job) -> None:
    """Of a teacher from another build: the classes must be the student's; another split is worth a word."""
    classes = theirs.get("classes")
    if isinstance(classes, list):
        _same_classes(path, classes, job)
    if theirs.get("split_sha256") != _facts(job.data)["split_sha256"]:
        console.log(f"warning: {path}: this teacher was trained on another split or other images; what it saw of the "
                    "student's val and test images is not known, and would make the student look too good")


def _same_classes(path: Path, theirs: list[str], job: Job) -> None:
    ours = _facts(job.data)["classes"]
    if theirs != ours:
        odd = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
        seen = f"first difference: '{odd[0]}' there, '{odd[1]}' here" if odd else "the others are equal"
        raise RecipeError(f"{path}: its teacher knows {len(theirs)} classes, the student is to learn {len(ours)} "
                          f"({seen}); use a teacher of the same classes")


def _field(job: Job) -> str:
    """Where the recipe names its teacher."""
    return "distill.teacher" if getattr(job.recipe.distill, "teacher", None) else "measure.fidelity.teacher"


def _facts(data: Stage) -> dict[str, Any]:
    """data.json of a data stage."""
    facts: dict[str, Any] = json.loads((data.folder / "data.json").read_text(encoding="utf-8"))
    return facts

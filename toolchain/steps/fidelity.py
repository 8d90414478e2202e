"""What was taught: every engine and the float student compared with the teacher, on the same ordered test set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.engines import backend, load_engine
from toolchain.engines.protocol import Images, Logits
from toolchain.errors import TrainError
from toolchain.files import write_text
from toolchain.recipe.schema import Engine, Fidelity
from toolchain.steps.job import TRAINING_ROOMS, Job, plain
from toolchain.steps.teachers import Teacher
from toolchain.workdir import Stage

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset
    from toolchain.measure.accuracy import Answers


@dataclass(frozen=True)
class Network:
    """A PyTorch network that answers as an engine does."""

    model: nn.Module

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) float32 of images (N, 3, S, S)."""
        import torch

        with torch.inference_mode():
            return self.model.eval()(torch.from_numpy(images)).float().numpy()


def taught(job: Job, engines: Mapping[str, Engine], stages: Mapping[str, Stage], student: Stage, teacher: Teacher
           ) -> Stage:
    """The stage that compares (fidelity.json, fidelity.npz, gradcam.png). Raises DataError, EngineError, TrainError."""
    cfg, seed = job.recipe.measure.fidelity, job.recipe.seed
    assert cfg is not None
    runnable = [name for name, engine in engines.items() if backend(engine.runtime).not_runnable(engine) is None]

    def make(folder: Path) -> str:
        from toolchain.models.store import load_model

        with ExitStack() as stack:
            opened = {name: stack.enter_context(load_engine(stages[name].folder, job.recipe.measure.threads))
                      for name in runnable}
            found = compare(folder, job.dataset(), ("teacher", Network(teacher.load(job))), opened,
                            load_model(student.folder), cfg, seed, job.recipe.measure.accuracy_batch)
        return "; ".join(f"{row['name']}: KL {row['kl_nats']['value']:.4f} nats" for row in found["engines"][:1])

    return job.work.stage("fidelity", make, section=[plain(cfg, "teacher"), seed, runnable, teacher.mean, teacher.std],
                          inputs=[job.data, teacher.stage, teacher.data, student, *stages.values()],
                          rooms=["measure", "gradcam", "engines", *TRAINING_ROOMS], packages=["torch"])


def compare(
    folder: Path, dataset: Dataset, teacher: tuple[str, Answers], students: Mapping[str, Answers],
    student: nn.Module | None, cfg: Fidelity, seed: int, batch_size: int = 64,
) -> dict[str, Any]:
    """Write fidelity.json, fidelity.npz (values per test image) and gradcam.png into `folder`; returns the former.

    teacher, students: what answers, by name. student: the network whose Grad-CAM maps are compared with the teacher's,
    where both are in PyTorch.
    """
    from toolchain import console
    from toolchain.data import batches
    from toolchain.measure.fidelity import engine_logits, fidelity_of, per_image, teacher_of
    from toolchain.measure.npz import save_arrays

    name, answers = teacher
    labels, classes = dataset.test.labels, len(dataset.classes)
    everyone = {name: answers, **students}

    def logits_on(images: Iterator[Any]) -> dict[str, Logits]:
        with console.bar("fidelity", len(labels) * len(everyone)) as bar:
            return engine_logits(everyone, images, labels, classes, bar.advance)

    logits = logits_on(batches(dataset.test, dataset.preprocess, batch_size))
    values = {f"{who}.{what}": array for who in students
              for what, array in per_image(logits[who], logits[name]).items()}
    found: dict[str, Any] = {
        "teacher": teacher_of(name, logits[name], labels), "images": len(labels),
        "engines": [fidelity_of(who, logits[who], logits[name], labels, seed) for who in students],
        "jitter": _jittered(dataset, name, students, logits, logits_on, cfg, seed, batch_size)}
    found["gradcam"], found["gradcam_reason"] = None, "not asked for"
    if cfg.gradcam:
        maps, arrays, reason = _maps(folder, dataset, answers, student, cfg, seed, batch_size)
        found |= {"gradcam": maps, "gradcam_reason": reason}
        values |= arrays
    save_arrays(folder / "fidelity.npz", {"labels": labels, **values})
    write_text(folder / "fidelity.json", json.dumps(found, indent=1) + "\n")
    return found


def _jittered(
    dataset: Dataset, teacher: str, students: Mapping[str, Answers], clean: Mapping[str, Logits],
    logits_on: Callable[[Iterator[Any]], dict[str, Logits]], cfg: Fidelity, seed: int, batch_size: int,
) -> dict[str, Any] | None:
    """The same networks on one frozen realisation of colour jitter."""
    if cfg.jitter is None:
        return None
    from toolchain.data.jitter import jittered_batches
    from toolchain.measure.fidelity import jitter_drop, teacher_of

    jittered = logits_on(jittered_batches(dataset.test, dataset.preprocess, batch_size, cfg.jitter, cfg.jitter.seed))
    labels = dataset.test.labels
    return {"settings": plain(cfg.jitter),
            "teacher_top1_percent": teacher_of(teacher, jittered[teacher], labels)["top1_percent"],
            "engines": [jitter_drop(who, clean[who], jittered[who], labels, seed) for who in students]}


def _maps(
    folder: Path, dataset: Dataset, teacher: Answers, student: nn.Module | None, cfg: Fidelity, seed: int,
    batch_size: int,
) -> tuple[dict[str, Any] | None, dict[str, Any], str | None]:
    """Grad-CAM of student and teacher: figures, values per image, and why there are none."""
    from toolchain import console
    from toolchain.data.loader import eval_batches
    from toolchain.gradcam.maps import check_layer, default_layer
    from toolchain.gradcam.pictures import draw_networks
    from toolchain.gradcam.similarity import compare_maps, random_twin, summary
    from toolchain.measure.statistics import paired_interval

    if student is None or not isinstance(teacher, Network) or getattr(teacher.model, "logits_only", False):
        return None, {}, "Grad-CAM needs the gradients of both networks, and an ONNX file has none"
    size, test = dataset.preprocess.image_size, dataset.test
    try:
        layers = [asked or default_layer(model, size) for asked, model in (
            (cfg.student_layer, student), (cfg.teacher_layer, teacher.model))]
    except TrainError as error:
        return None, {}, str(error)
    for layer, model in zip(layers, (student, teacher.model), strict=True):
        check_layer(model, layer, size)
    with console.bar("gradcam", len(test)) as bar:
        found = compare_maps(student, teacher.model, eval_batches(test, dataset.preprocess, batch_size),
                             student_layer=layers[0], teacher_layer=layers[1], control=random_twin(student, seed),
                             classes=cfg.classes, advance=bar.advance)
    draw_networks(folder / "gradcam.png", {"teacher": (teacher.model, layers[1]), "student": (student, layers[0])},
                  test, dataset.preprocess, dataset.classes, cfg.sheet_images, cfg.classes)
    figures = summary(found, layers[0], layers[1], lambda values: paired_interval(values, seed))
    arrays = {f"gradcam.{key}": np.asarray(getattr(found, key)) for key in ("cosine", "centred_cosine")}
    return figures | {"sheet": "gradcam.png"}, arrays, None

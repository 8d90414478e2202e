"""Finished networks judged against a teacher on one ordered test set, and the students against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolchain import console
from toolchain.engines.protocol import Logits
from toolchain.engines.record import read_record
from toolchain.errors import RecipeError, TrainError, WorkDirError
from toolchain.files import json_with, refuse_other, sha256_file, write_text
from toolchain.recipe.schema import Fidelity
from toolchain.steps.compare_table import render_markdown
from toolchain.steps.contestants import REPORT, Contestant, opened
from toolchain.steps.job import plain

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset

SCHEMA_VERSION = 1
SHEET = "gradcam.png"
FILES = ("compare.json", "compare.md", "compare.npz", SHEET)
BATCH = 64
Labels = NDArray[np.int64]  # (N,)
PerImage = dict[str, NDArray[Any]]  # "<network>.<quantity>" -> (N,)
NO_NETWORK = "{name}: has no network in PyTorch, and an ONNX file has no gradients"


class Views(NamedTuple):
    """Whose Grad-CAM maps can be had. layers: name -> (network, layer). reasons: name -> why there are none."""

    layers: dict[str, tuple[nn.Module, str]]
    reasons: dict[str, str]


def compare_builds(
    folder: Path, teacher: Contestant, students: Sequence[Contestant], dataset: Dataset, cfg: Fidelity, seed: int
) -> dict[str, Any]:
    """Write compare.json, compare.md, compare.npz (values per test image) and gradcam.png into `folder`.

    Returns what compare.json holds. folder: exists. cfg: whether maps and jitter, and how; its teacher is not read.
    seed: of the bootstrap and of the random networks. Raises RecipeError (`folder` holds other files), DataError,
    EngineError, TrainError, OnnxError, DigestMismatch, MissingPackage, WorkDirError.
    """
    _refuse_replaced(folder)
    everyone, labels = [teacher, *students], dataset.test.labels
    views = _views(everyone, cfg, dataset.preprocess.image_size)
    with opened(everyone, dataset) as engines:
        clean, jittered = _answers(engines, dataset, cfg)
    found, values = judged([one.name for one in everyone], clean, jittered, labels, seed)
    for one, row in zip(everyone, [found["teacher"], *found["students"]], strict=True):
        row |= _facts(one)
    for row in found["students"]:
        row["gradcam"], row["gradcam_reason"], maps = _maps(row["name"], teacher.name, views, dataset, cfg, seed)
        values |= maps
    shown = any(row["gradcam"] for row in found["students"])
    found = {"schema_version": SCHEMA_VERSION, "dataset": dataset.name, "classes": list(dataset.classes),
             "split_sha256": dataset.split_sha256, "images": len(labels), "seed": seed,
             "jitter": plain(cfg.jitter) if cfg.jitter else None, "sheet": SHEET if shown else None, **found}
    _write(folder, found, {"labels": labels, **values}, views, dataset, cfg)
    return found


def _refuse_replaced(folder: Path) -> None:
    if (folder / REPORT).exists():
        raise RecipeError(f"--out {folder}: is a build, whose files would be overwritten; choose another folder")
    refuse_other(folder / FILES[0], "a comparison", json_with("teacher", "students", "differences"))
    there = [name for name in FILES if (folder / name).exists()]
    if there and FILES[0] not in there:
        raise RecipeError(f"--out {folder}: has a {there[0]} that is of no comparison and would be overwritten; choose "
                          "another folder, or delete it")


def judged(
    names: Sequence[str], clean: Mapping[str, Logits], jittered: Mapping[str, Logits] | None, labels: Labels, seed: int
) -> tuple[dict[str, Any], PerImage]:
    """compare.json's `teacher`, `students` and `differences`, and the values per image that they sum up.

    names: the teacher's, then the students'. clean: logits (N, K) of each; jittered: the same on jittered images.
    Differences are of each student to the first one, image by image. Raises DataError, EngineError.
    """
    from toolchain.measure.fidelity import fidelity_of, jitter_drop, per_image, teacher_of
    from toolchain.measure.statistics import difference

    teacher, *students = names
    values: PerImage = {}
    for name in names:
        values[f"{name}.right"] = clean[name].argmax(axis=1) == labels
        if jittered:
            values[f"{name}.jittered_right"] = jittered[name].argmax(axis=1) == labels
    rows = {name: teacher_of(name, clean[name], labels) for name in names}
    for name in students:
        rows[name] |= fidelity_of(name, clean[name], clean[teacher], labels, seed)
        values |= {f"{name}.{what}": array for what, array in per_image(clean[name], clean[teacher]).items()}
    for name in names:
        rows[name]["jitter"] = jitter_drop(name, clean[name], jittered[name], labels, seed) if jittered else None

    def to_first(name: str, what: str, scale: float = 1.0) -> dict[str, Any]:
        return difference(scale * values[f"{name}.{what}"], scale * values[f"{students[0]}.{what}"], seed)

    differences = [
        {"name": name, "versus": students[0], "kl_nats": to_first(name, "kl_nats"),
         "top1_percent": to_first(name, "right", 100.0),
         "jittered_top1_percent": to_first(name, "jittered_right", 100.0) if jittered else None}
        for name in students[1:]]
    return {"teacher": rows[teacher], "students": [rows[name] for name in students], "differences": differences}, values


def _answers(
    engines: Mapping[str, Any], dataset: Dataset, cfg: Fidelity
) -> tuple[dict[str, Logits], dict[str, Logits] | None]:
    """Logits of every engine on the test set, and on one realisation of its colour jitter."""
    from toolchain.data import batches
    from toolchain.measure.fidelity import engine_logits

    labels, classes = dataset.test.labels, len(dataset.classes)

    def logits_on(title: str, images: Iterator[Any]) -> dict[str, Logits]:
        with console.bar(title, len(labels) * len(engines)) as bar:
            return engine_logits(engines, images, labels, classes, bar.advance)

    clean = logits_on("compare", batches(dataset.test, dataset.preprocess, BATCH))
    if cfg.jitter is None:
        return clean, None
    from toolchain.data.jitter import jittered_batches

    images = jittered_batches(dataset.test, dataset.preprocess, BATCH, cfg.jitter, cfg.jitter.seed)
    return clean, logits_on("compare, jittered", images)


def _views(everyone: Sequence[Contestant], cfg: Fidelity, image_size: int) -> Views:
    """The networks and layers whose maps are compared, before anything is run. Raises TrainError for a wrong layer."""
    views = Views({}, {})
    if not cfg.gradcam:
        return Views({}, {one.name: "not asked for" for one in everyone})
    from toolchain.gradcam.maps import check_layer, default_layer

    for one in everyone:
        asked = cfg.teacher_layer if one is everyone[0] else cfg.student_layer
        if one is not everyone[0] and one.path.resolve() == everyone[0].path.resolve():
            views.reasons[one.name] = f"{one.name}: is the teacher's own build, so both look at the same places"
            continue
        network = one.network()
        if network is None:
            views.reasons[one.name] = NO_NETWORK.format(name=one.name)
            continue
        try:
            layer = asked or default_layer(network, image_size)
            check_layer(network, layer, image_size)
            views.layers[one.name] = network, layer
        except TrainError as error:
            if asked:
                raise TrainError(f"{one.path}: {error}") from None
            views.reasons[one.name] = f"{one.name}: {error}"
    return views


def _maps(
    student: str, teacher: str, views: Views, dataset: Dataset, cfg: Fidelity, seed: int
) -> tuple[dict[str, Any] | None, str | None, PerImage]:
    """Grad-CAM of one student beside the teacher's: figures, or why there are none, and values per image."""
    if reason := views.reasons.get(teacher) or views.reasons.get(student):
        return None, reason, {}
    from toolchain.data.loader import eval_batches
    from toolchain.gradcam.similarity import compare_maps, random_twin, summary
    from toolchain.measure.statistics import paired_interval

    (network, layer), (theirs, their_layer) = views.layers[student], views.layers[teacher]
    with console.bar(f"gradcam of {student}", len(dataset.test)) as bar:
        found = compare_maps(network, theirs, eval_batches(dataset.test, dataset.preprocess, BATCH),
                             student_layer=layer, teacher_layer=their_layer, control=random_twin(network, seed),
                             classes=cfg.classes, advance=bar.advance)
    figures = summary(found, layer, their_layer, lambda values: paired_interval(values, seed))
    keep = ("cosine", "centred_cosine", "random_cosine", "random_centred_cosine")
    return figures, None, {f"{student}.gradcam.{key}": getattr(found, key) for key in keep}


def _facts(one: Contestant) -> dict[str, Any]:
    """Which file answered."""
    engine = one.path / "engines" / one.engine if one.engine else None
    return {"path": one.path.as_posix(), "engine": one.engine,
            "sha256": read_record(engine).sha256 if engine else sha256_file(one.path)}


def _write(
    folder: Path, found: dict[str, Any], values: PerImage, views: Views, dataset: Dataset, cfg: Fidelity
) -> None:
    """Each file whole or not at all, compare.json last."""
    from toolchain.measure.npz import save_arrays

    try:
        if found["sheet"]:
            from toolchain.gradcam.pictures import draw_networks

            teacher = found["teacher"]["name"]
            networks = {f"teacher: {name}" if name == teacher else name: view for name, view in views.layers.items()}
            draw_networks(folder / SHEET, networks, dataset.test, dataset.preprocess, dataset.classes,
                          cfg.sheet_images, cfg.classes)
        else:
            (folder / SHEET).unlink(missing_ok=True)  # of an earlier comparison
        save_arrays(folder / "compare.npz", values)
        write_text(folder / "compare.md", render_markdown(found))
        write_text(folder / "compare.json", json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise WorkDirError(f"{folder}: cannot be written ({error.strerror}); free some space or choose another "
                           "--out") from error

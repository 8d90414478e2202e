"""The ONNX side of a build: export or import, calibration, one file per precision and target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchain.console import log
from toolchain.engines import backend
from toolchain.engines.record import engine_name
from toolchain.errors import OnnxError
from toolchain.files import write_text
from toolchain.recipe.load import locate
from toolchain.recipe.schema import Engine, OnnxModel
from toolchain.steps.job import ONNX_PACKAGES, ORT_PACKAGES, Job, plain
from toolchain.workdir import Stage, sha256_tree

OWN = "own.json"  # of the stage "import": what read_own_onnx found, and what the user should know of it

def exported(name: str, job: Job, student: Stage) -> Stage:
    """The student as one clean float ONNX file (model.onnx), compared with PyTorch."""
    cfg, size = job.recipe.export, job.recipe.data.image_size

    def make(folder: Path) -> str:
        from toolchain.export import export_onnx
        from toolchain.models.store import load_model

        classes = len(job.dataset().classes)
        gap = export_onnx(load_model(student.folder), folder / "model.onnx", cfg, size, classes)
        write_text(folder / "gap.json", json.dumps(gap))
        return f"largest logit difference to PyTorch {gap['max_abs_diff']:.1e}"

    return job.work.stage(name, make, section=[plain(cfg), size], inputs=[student],
                          rooms=["export.py", "graph", "models"], packages=["torch", *ONNX_PACKAGES, *ORT_PACKAGES])


def imported(job: Job) -> Stage:
    """The user's own ONNX file, checked, brought to our opset and cleaned; theirs is only read."""
    assert isinstance(job.recipe.model, OnnxModel)
    path = locate(job.recipe.model.onnx, job.base, "model.onnx")
    opset, size = job.recipe.export.opset, job.recipe.data.image_size

    def make(folder: Path) -> str:
        from toolchain.graph.ending import TOLD
        from toolchain.graph.own import read_own_onnx

        info = read_own_onnx(path, folder / "model.onnx", opset, size)
        _check_fits(path, info, size, len(job.dataset().classes))
        told = [f"{path.name}: {TOLD[info['ending']]}"] if info["ending"] in TOLD else []
        write_text(folder / OWN, json.dumps({**info, "told": told}, indent=1) + "\n")
        for sentence in told:
            log(sentence)
        return f"{path.name}: {info['num_classes']} classes at {info['image_size']} pixels, batch {info['batch']}"

    return job.work.stage("import", make, section=[_digests(path), opset, size], inputs=[job.data],
                          rooms=["graph"], packages=[*ONNX_PACKAGES, *ORT_PACKAGES])


def _digests(path: Path) -> list[str]:
    """SHA-256 of an ONNX file and of the files that hold its tensors."""
    from google.protobuf.message import DecodeError

    from toolchain.graph.onnx_file import external_files

    try:
        beside = external_files(path)
    except (DecodeError, ValueError):  # not an ONNX file, which is told when it is read
        beside = []
    return [sha256_tree(file) for file in (path, *beside)]


def calibrated(name: str, job: Job, model: Stage, learned: Stage | None = None) -> Stage:
    """Ranges (ranges.json) of every tensor that a target may quantize; QAT's `learned` ones lie on top."""
    cfg, wanted, seed = job.recipe.quantize, job.recipe.quantize.calibration, job.recipe.seed
    chosen = locate(wanted.set, job.base, "quantize.calibration.set") if wanted.set else None

    def make(folder: Path) -> str:
        from toolchain.data.calibration import calibration_images
        from toolchain.quantize.calibrate import calibrate, overlay

        images, source = calibration_images(job.dataset(), wanted.images, seed, chosen)
        onnx = model.folder / "model.onnx"
        normalized = (job.dataset().preprocess.normalize(images[i : i + 1]) for i in range(len(images)))
        ranges = calibrate(onnx, normalized, cfg.calibrator, len(images))
        if learned:
            ranges = overlay(ranges, json.loads((learned.folder / "learned.json").read_text()), onnx)
        ranges.save(folder / "ranges.json")
        write_text(folder / "calibration.json", json.dumps({"source": source, "images": len(images)}))
        return f"{len(images)} images ({source}), {len(ranges.activations)} tensors, {cfg.calibrator.method}"

    section = [plain(cfg.calibrator), wanted.images, seed, sha256_tree(chosen) if chosen else None]
    return job.work.stage(name, make, section=section, inputs=[job.data, model, *([learned] if learned else [])],
                          rooms=["quantize", "data", "ranges.py"], packages=ORT_PACKAGES)


def onnx_stage(engine: Engine) -> str:
    """Name of the stage that makes this engine's ONNX file; a mixed engine has one of its own."""
    if engine.precision == "mixed":
        return f"onnx_{engine_name(engine)}"
    return f"onnx_{engine.precision}_{backend(engine.runtime).rules(engine)}"


def converted(
    job: Job, engine: Engine, model: Stage, ranges: Stage | None, unpruned: bool = False,
    assignment: Stage | None = None,
) -> Stage:
    """The ONNX file of one precision by one target's rules; engines that need the same file share it.

    unpruned: `model` is the network before pruning, a reference that is not shown as a product of the build.
    assignment: of a mixed engine, the stage with its assignment.json.
    """
    precision, rules, cfg = engine.precision, backend(engine.runtime).rules(engine), job.recipe.quantize
    name = onnx_stage(engine) + "_unpruned" * unpruned
    made = next((stage for stage in job.work.stages if stage.name == name), None)
    if made:
        return made

    def make(folder: Path) -> str:
        import numpy as np

        from toolchain.graph.convert import convert
        from toolchain.ranges import Ranges

        known = Ranges.load(ranges.folder / "ranges.json") if ranges else None
        chosen = json.loads((assignment.folder / "assignment.json").read_text()) if assignment else None
        info = convert(model.folder / "model.onnx", folder / "model.onnx", precision, rules, known, cfg.int8, cfg.int4,
                       probe=np.load(job.data.folder / "probe.npy", allow_pickle=False),
                       assignment={row["name"]: row["precision"] for row in chosen["layers"]} if chosen else None,
                       joins=chosen is None or chosen["joins"] == "quantized")
        write_text(folder / "info.json", json.dumps(info, indent=1))
        return f"{info['weight_bytes'] / 1e6:.2f} MB of weights"

    stage = job.work.stage(
        name, make, section=[precision, rules, plain(cfg.int8), plain(cfg.int4)],
        inputs=[job.data, model, *(stage for stage in (ranges, assignment) if stage)], rooms=["graph", "ranges.py"],
        packages=[*ONNX_PACKAGES, *ORT_PACKAGES])
    if not unpruned:
        shown = engine_name(engine) if assignment else f"{precision}.{rules}"
        job.work.publish(stage.folder / "model.onnx", f"onnx/model.{shown}.onnx")
    return stage


def _check_fits(path: Path, info: dict[str, Any], image_size: int, classes: int) -> None:
    if info["image_size"] not in (None, image_size):
        raise OnnxError(f"{path}: its input is {info['image_size']} pixels, but data.image_size is {image_size}; "
                        f"set data.image_size: {info['image_size']}")
    if info["num_classes"] not in (None, classes):
        raise OnnxError(f"{path}: it has {info['num_classes']} outputs, but the dataset has {classes} classes; "
                        "use the dataset it was trained on")

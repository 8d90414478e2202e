"""Golden inputs: a few test images with every engine's answers, so that a device can prove that it computes alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from toolchain.engines import backend
from toolchain.errors import OnnxError
from toolchain.files import write_text
from toolchain.recipe.schema import Engine
from toolchain.steps.job import ORT_PACKAGES, Job
from toolchain.workdir import Stage

IMAGES = 8
FOLDER, INDEX, PICTURES = "golden", "golden.json", "images.npy"


def golden(job: Job, engines: Mapping[str, Engine], stages: Mapping[str, Stage], models: Mapping[str, Stage]) -> Stage:
    """golden/images.npy, uint8 (k, S, S, 3) as they are before they are normalized, and golden/<engine>.npy, logits.

    stages, models: of each engine and of its ONNX file. Where an engine cannot run here its file's logits stand for
    its own, computed node by node; golden.json says so, and how far a device may be away (|one - other| / |other|).
    """
    hindered = {name: backend(engine.runtime).not_runnable(engine) for name, engine in engines.items()}

    def make(folder: Path) -> str:
        import numpy as np

        from toolchain.contract.numbers import LARGEST_TO_FILE
        from toolchain.engines import load_engine
        from toolchain.engines.record import read_record
        from toolchain.graph.compare import run

        data = job.dataset()
        chosen = np.unique(np.linspace(0, len(data.test) - 1, IMAGES).astype(np.int64))
        pictures = data.test.images(chosen)
        images = data.preprocess.normalize(pictures)
        np.save(folder / PICTURES, pictures)
        facts = {}
        for name, stage in stages.items():
            record = read_record(stage.folder)
            try:
                if hindered[name] is None:
                    with load_engine(stage.folder, 1) as opened:
                        logits = opened.infer(images)
                else:
                    logits = run(models[name].folder / "model.onnx", images, optimize=False)
            except OnnxError:  # a file that ONNX Runtime does not open either
                continue
            np.save(folder / f"{name}.npy", np.ascontiguousarray(logits, np.float32))
            tolerance = LARGEST_TO_FILE.get(record.precision) or LARGEST_TO_FILE[record.compute]
            facts[name] = {"of": "the engine" if hindered[name] is None else "its ONNX file", "tolerance": tolerance}
        write_text(folder / INDEX, json.dumps({"images": len(chosen), "engines": facts}, indent=1) + "\n")
        return f"{len(chosen)} images, {len(facts)} of {len(stages)} engines"

    packages = sorted({p for engine in engines.values() for p in backend(engine.runtime).PACKAGES} | {*ORT_PACKAGES})
    stage = job.work.stage("golden", make, section=hindered, inputs=[job.data, *models.values(), *stages.values()],
                           rooms=["engines"], packages=packages)
    for file in sorted(stage.folder.iterdir()) if stage.folder.is_dir() else []:
        if file.name != "stage.json":
            job.work.publish(file, f"{FOLDER}/{file.name}")
    return stage

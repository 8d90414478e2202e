"""The end of a build: what every stage left behind, joined into one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchain.recipe.schema import Engine, Recipe
from toolchain.report.make import make_report, write_report
from toolchain.report.schema import Report
from toolchain.steps.graphs import onnx_stage
from toolchain.workdir import Stage, WorkDir

TRAINING_STAGES = ("teacher", "train", "prune", "qat")


def reported(recipe: Recipe, work: WorkDir, engines: dict[str, Engine], stages: dict[str, Stage], measurement: Stage
             ) -> Report:
    """Write report.json, report.md and report.html into the output folder. Raises WorkDirError."""
    from toolchain.doctor import examine

    folders = {stage.name: stage.folder for stage in work.stages}
    data = _read(folders["data"] / "data.json") | {"calibration": _read(folders["calibrate"] / "calibration.json")}
    figures = {record["name"]: record for record in _read(measurement.folder / "measured.json")}
    records = []
    for name, engine in engines.items():
        model = folders[onnx_stage(engine)]
        facts = _read(stages[name].folder / "engine.json")
        keep = {key: facts.get(key) for key in ("precision", "runtime", "target", "sha256", "engine_bytes",
                                                "weight_bytes", "compute", "runtime_version", "device", "profile")}
        records.append({"name": name, "path": f"engines/{name}/{facts['engine']}",
                        "gap": _read(model / "info.json").get("gap"),
                        **keep, **figures[name]})
    report = make_report(
        recipe, examine(), data,
        [{"name": s.name, "key": s.key, "cached": s.cached, "seconds": s.seconds} for s in work.stages], records,
        history={name: [_epoch(e) for e in epochs] for name, epochs in _of_training(folders, "history.json").items()},
        fidelity=_read(folders["fidelity"] / "fidelity.json") if "fidelity" in folders else None,
        taught=_of_training(folders, "taught.json"))
    sheet = folders["fidelity"] / "gradcam.png" if "fidelity" in folders else None
    write_report(report, work.out, sheet.read_bytes() if sheet and sheet.is_file() else None)
    return report


def _of_training(folders: dict[str, Path], file: str) -> dict[str, Any]:
    """What the training stages that have such a file wrote; a teacher that came as a file was not trained here."""
    return {name: _read(folders[name] / file) for name in TRAINING_STAGES
            if name in folders and (folders[name] / file).is_file()}


def _epoch(epoch: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": epoch["epoch"], "loss": epoch["train_loss"], "val_top1_percent": epoch["val_top1"],
            "seconds": epoch["seconds"], "parts": epoch.get("parts", {})}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

"""The end of a build: what every stage left behind, joined into one report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.errors import ToolchainError
from toolchain.published import REPORT, record
from toolchain.recipe.schema import Engine, Recipe
from toolchain.report.make import make_report, write_report
from toolchain.report.schema import Report
from toolchain.steps.contract import FILE, shortened
from toolchain.steps.graphs import OWN, onnx_stage
from toolchain.steps.pruned_facts import SHEET
from toolchain.workdir import Stage, WorkDir

TRAINING_STAGES = ("teacher", "train", "prune", "half_finetune", "qat_int4", "qat_int8")


def reported(
    recipe: Recipe, work: WorkDir, engines: Mapping[str, Engine], stages: Mapping[str, Stage], measurement: Stage,
    unpruned: Mapping[str, Stage] | None = None, failed: Mapping[str, ToolchainError] | None = None,
) -> Report:
    """Show everything in the output folder, report.json, report.md and report.html last. Raises WorkDirError.

    unpruned: the reference engines of the network before pruning, by the names that `measurement` knows. failed:
    engines that could not be built, which have no stage.
    """
    from toolchain.doctor import examine

    folders = {stage.name: stage.folder for stage in work.stages}
    data = _read(folders["data"] / "data.json") | {
        "calibration": _read(folders["calibrate"] / "calibration.json"),
        "preprocess": _read(folders["data"] / "preprocess.json")}
    figures = {record["name"]: record for record in _read(measurement.folder / "measured.json")}
    packed = _read(folders["packed"] / "packed.json") if "packed" in folders else {}
    records: list[dict[str, Any]] = []
    for name, engine in engines.items():
        if failed and name in failed:
            records.append({"name": name, "precision": engine.precision, "runtime": engine.runtime,
                            "target": engine.target, "built": False, "measured": False,
                            "reason": f"cannot be built: {failed[name]}"})
            continue
        found, facts = _engine(name, stages[name], folders[onnx_stage(engine)], figures)
        records.append({"path": f"engines/{name}/{facts['engine']}", **found, **packed.get(name, {}),
                        "contract": shortened(_read(folders[f"contract_{name}"] / FILE))})
    references = [_engine(name, stage, None, figures)[0] for name, stage in (unpruned or {}).items()]
    sheets = {key: folders[key] / file for key, file in (("fidelity", "gradcam.png"), ("pruned_facts", SHEET))
              if key in folders}
    report = make_report(
        recipe, examine(), data,
        [{"name": s.name, "key": s.key, "cached": s.cached, "seconds": s.seconds} for s in work.stages], records,
        history={name: [_epoch(e) for e in epochs] for name, epochs in _of_training(folders, "history.json").items()},
        fidelity=_read(folders["fidelity"] / "fidelity.json") if "fidelity" in folders else None,
        taught=_of_training(folders, "taught.json"), unpruned=references,
        quantization=_read(folders["quantized_facts"] / "quantized_facts.json"),
        pruning=_read(folders["pruned_facts"] / "pruned_facts.json") if "pruned_facts" in folders else None,
        own_file=_read(folders["import"] / OWN)["told"] if "import" in folders else ())
    work.show()
    write_report(report, work.out, *(sheets[key].read_bytes() if key in sheets and sheets[key].is_file() else None
                                     for key in ("fidelity", "pruned_facts")))
    record(work.out, REPORT, "recipe.resolved.yaml")
    return report


def _engine(
    name: str, stage: Stage, model: Path | None, figures: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One engine's record for the report, and its engine.json. model: folder of its ONNX file, for the gap."""
    facts = _read(stage.folder / "engine.json")
    keep = {key: facts.get(key) for key in ("precision", "runtime", "target", "sha256", "engine_bytes", "weight_bytes",
                                            "compute", "runtime_version", "device", "profile", "sparse")}
    gap = _read(model / "info.json").get("gap") if model else None
    return {"name": name, "gap": gap, **keep, **figures[name]}, facts


def _of_training(folders: dict[str, Path], file: str) -> dict[str, Any]:
    """What the training stages that have such a file wrote; a teacher that came as a file was not trained here."""
    return {name: _read(folders[name] / file) for name in TRAINING_STAGES
            if name in folders and (folders[name] / file).is_file()}


def _epoch(epoch: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": epoch["epoch"], "loss": epoch["train_loss"], "val_top1_percent": epoch["val_top1"],
            "seconds": epoch["seconds"], "parts": epoch.get("parts", {})}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

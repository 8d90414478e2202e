"""How the network was quantized, and the true storage of every engine: what the report says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolchain.files import write_text
from toolchain.recipe.schema import Engine
from toolchain.steps.job import ONNX_PACKAGES, Job
from toolchain.steps.repairing import VERDICT
from toolchain.workdir import Stage

REPAIRS = {"repair_int8": "int8", "repair_int4": "int4"}  # stage -> the engines it mends


def quantized_facts(job: Job, engines: Mapping[str, Engine], models: Mapping[str, Stage]) -> Stage:
    """quantized_facts.json, as report/quantized.py describes it.

    models: engine name -> the stage of its ONNX file, whose stored numbers are counted, the same for every runtime.
    """
    made = {stage.name: stage for stage in job.work.stages}
    assigned = [stage for name, stage in made.items() if name.startswith("assignment_")]  # one for each mixed engine
    used = [*(made[name] for name in ("gpfq", *REPAIRS) if name in made), *assigned]
    cfg = job.recipe.quantize
    source = {name: (engine.precision, models[name]) for name, engine in engines.items()}

    def make(folder: Path) -> str:
        gpfq = _read(made["gpfq"].folder / "gpfq.json") if "gpfq" in made else None
        storage = [{"name": name, **_stored(precision, stage.folder, gpfq, made.get("gpfq"))}
                   for name, (precision, stage) in source.items()]
        repairs = [{"precision": precision, **step} for name, precision in REPAIRS.items() if name in made
                   for step in _read(made[name].folder / "repair.json")]
        judged = [_read(made[name].folder / VERDICT) for name in REPAIRS
                  if name in made and (made[name].folder / VERDICT).is_file()]
        mixed = [_read(stage.folder / "assignment.json") for stage in assigned]
        write_text(folder / "quantized_facts.json", json.dumps({
            "method": cfg.method, "calibrator": cfg.calibrator.method, "storage": storage, "repairs": repairs,
            "judged": judged, "gpfq": gpfq, "mixed": mixed}, indent=1) + "\n")
        return f"{len(storage)} engines"

    return job.work.stage(
        "quantized_facts", make, section=[cfg.method, cfg.calibrator.method, sorted(source)],
        inputs=[*models.values(), *used], rooms=["steps/quantized_facts.py", "graph/payload.py"],
        packages=ONNX_PACKAGES)


def _stored(precision: str, folder: Path, gpfq: Mapping[str, Any] | None, made: Stage | None) -> dict[str, Any]:
    """The parts of one file and, where GPFQ's codes are in it, what they take at their own number of bits."""
    from toolchain.graph.payload import payload

    found = payload(folder / "model.onnx")
    parts: dict[str, Any] = {f"{part}_bytes": number for part, number in asdict(found).items() if part != "values"}
    packed = None
    if gpfq is not None and made is not None and precision in gpfq["precisions"]:
        packed = packed_bytes(made.folder / "model.onnx", gpfq)
    return {**parts, "coded_weights": found.values, "payload_bytes": found.total, "packed_bytes": packed}


def packed_bytes(float_onnx: Path, gpfq: Mapping[str, Any]) -> int:
    """GPFQ's codes at b bits, their scales, and the float tensors that are not coded.

    float_onnx: the file with the coded weights' values as floats. gpfq: gpfq.json.
    """
    from toolchain.graph.payload import payload

    return int(gpfq["packed_bytes"] + payload(float_onnx).floats - gpfq["float_bytes"])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

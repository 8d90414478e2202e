"""Engines made on the device: a TensorRT engine from a portable ONNX file; for ONNX Runtime the file itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .answers import Failed, progress
from .cuda import gpu
from .place import Place, sha256_file, write_json
from .probe import cpu_name, need_numpy, runtime
from .trust import Refused, strict_json

RECORD, ASKED = "engine.json", "asked.json"


def make_engine(place: Place, engine: Mapping[str, Any], onnx: Path, folder: Path) -> dict[str, Any]:
    """Leave the engine file and engine.json in `folder`; returns the latter. Raises Failed with the runtime's reason.

    engine: {"name", "precision", "compute", "runtime", "target", "batch", "workspace_mb", "sparse", "weight_bytes"};
    the last five may be missing. One that was made before, as asked, is kept.
    """
    need_numpy()
    module = runtime(engine["runtime"])
    asked = {**engine, "onnx": sha256_file(onnx), "version": str(module.__version__)}
    known = finished(folder, asked)
    if known is not None:
        return known
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True)
    if engine["runtime"] == "tensorrt":
        file, card = "engine.trt", gpu()
        if card is None:
            raise Failed(f"{engine['name']}: there is no NVIDIA GPU on this device to build it for")
        from .trt import build

        cache = place.root / f"timing.{module.__version__}.sm{card['sm']}.cache"
        place.root.mkdir(parents=True, exist_ok=True)
        made = build(module, onnx, part / file, engine, cache,
                     lambda share: progress(f"build {engine['name']}", share))
        facts = {**made, "device": f"{card['name']} (sm{card['sm']})", "profile": engine.get("batch")}
    else:
        file = "engine.onnx"
        shutil.copyfile(str(onnx), str(part / file))
        from .opened import open_engine

        with open_engine(engine, part / file, threads=1):  # does it open?
            pass
        card = gpu() if engine["target"] == "cuda" else None
        facts = {"runtime_version": str(module.__version__), "layers": [], "profile": None,
                 "device": card["name"] if card else cpu_name()}
    precision = engine.get("precision") or "fp32"
    record = {
        "name": engine["name"], "precision": precision, "compute": engine.get("compute") or precision,
        "runtime": engine["runtime"], "runtime_version": facts["runtime_version"], "target": engine["target"],
        "onnx_sha256": asked["onnx"], "engine": file, "sha256": sha256_file(part / file),
        "engine_bytes": (part / file).stat().st_size, "weight_bytes": engine.get("weight_bytes"),
        "device": facts["device"], "profile": facts["profile"], "layers": facts["layers"]}
    write_json(part / RECORD, record)
    write_json(part / ASKED, asked)
    shutil.rmtree(str(folder), ignore_errors=True)
    os.replace(str(part), str(folder))
    return record


def finished(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """engine.json of what lies in `folder`, if it is whole and was made as `asked`."""
    try:
        record = strict_json((folder / RECORD).read_bytes(), RECORD)
        same = strict_json((folder / ASKED).read_bytes(), ASKED) == asked
        return record if same and sha256_file(folder / record["engine"]) == record["sha256"] else None
    except (OSError, Refused, KeyError, TypeError):
        return None

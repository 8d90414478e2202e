"""Whether a device can run an engine that was made elsewhere, or one of the engines that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.engines.record import EngineRecord
from toolchain.recipe.schema import Engine
from toolchain.runner import contents

TENSORRT = ("tensorrt", "tensorrt_rtx")  # whose ONNX files the device's TensorRT builds its own engine from


def builds_own(runtime: str, facts: Mapping[str, Any]) -> bool:
    """Whether the device's own TensorRT makes an engine of the ONNX file of this runtime's engine."""
    return runtime in TENSORRT and "tensorrt" in facts["runtimes"] and bool(facts["sm"])


def unfit(engines: Mapping[str, Engine], facts: Mapping[str, Any]) -> dict[str, str]:
    """Why each of these engines, which are not built yet, is not for the device; empty: at least one may be."""
    found = {}
    for name, engine in engines.items():
        if builds_own(engine.runtime, facts):
            return {}
        described = {"name": name, "precision": engine.precision, "runtime": engine.runtime, "target": engine.target,
                     "runtime_version": facts["runtimes"].get(engine.runtime, "")}  # versions: when it is built
        if (why := contents.hindrance(described, facts)) is None:
            return {}
        found[name] = why
    return found


def hindrance(record: EngineRecord, facts: Mapping[str, Any]) -> str | None:
    """Why the device with these facts (of `probe`) cannot run it; None: it can, as far as can be told from here.

    An engine of ONNX Runtime is an ONNX file, which other versions may open as well: opening it decides, there.
    """
    fields = ("name", "precision", "runtime", "runtime_version", "target", "device")
    described = {field: getattr(record, field) for field in fields}
    if record.runtime == "onnxruntime":
        described["runtime_version"] = facts["runtimes"].get(record.runtime, record.runtime_version)
    return contents.hindrance(described, facts)

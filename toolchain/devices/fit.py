"""Whether a device can run an engine that was made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.engines.record import EngineRecord
from toolchain.runner import contents


def hindrance(record: EngineRecord, facts: Mapping[str, Any]) -> str | None:
    """Why the device with these facts (of `probe`) cannot run it; None: it can, as far as can be told from here.

    An engine of ONNX Runtime is an ONNX file, which other versions may open as well: opening it decides, there.
    """
    fields = ("name", "precision", "runtime", "runtime_version", "target", "device")
    described = {field: getattr(record, field) for field in fields}
    if record.runtime == "onnxruntime":
        described["runtime_version"] = facts["runtimes"].get(record.runtime, record.runtime_version)
    return contents.hindrance(described, facts)

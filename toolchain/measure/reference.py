"""Which FP32 engine an engine is compared with. Times from a GPU and from a CPU never share a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.engines.record import EngineRecord


def on_gpu(record: EngineRecord) -> bool:
    """Whether the engine runs on a GPU."""
    return record.runtime in ("tensorrt", "tensorrt_rtx") or record.target == "cuda"


def fp32_reference(engine: EngineRecord, measured: Sequence[EngineRecord], same_device: bool) -> str | None:
    """Name of the FP32 engine to compare with: of the same runtime and kind of device if there is one, else the first
    one; None where there is none. same_device: a CPU engine is never compared with a GPU engine."""
    candidates = [r for r in measured if r.precision == "fp32" and (not same_device or on_gpu(r) == on_gpu(engine))]
    own = [r for r in candidates if r.runtime == engine.runtime and on_gpu(r) == on_gpu(engine)]
    best = next(iter([r for r in own if r.target == engine.target] or own or candidates), None)
    return best.name if best else None

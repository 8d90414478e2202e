"""The recipe's limits held against what engines did on devices."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.recipe.schema import PRECISIONS, Limits
from toolchain.report.devices import DeviceEngine, DeviceResult
from toolchain.report.limits import check_limits
from toolchain.report.schema import EngineResult, LimitResult

JUDGED = ("top1", "top1_drop", "speedup", "latency_ms", "engine_bytes", "faster")  # what a device can tell of


def device_limits(
    limits: Limits, devices: Sequence[DeviceResult], engines: Sequence[EngineResult]
) -> list[LimitResult]:
    """One result for each limit on each engine that was built on a device, which is called "orin: int8.…".

    Accuracy is compared with the device's own FP32 engine, or with those of this machine, `engines`, where it has none.
    """
    found: list[LimitResult] = []
    for one in devices:
        own = [_as_result(one.name, engine) for engine in one.engines if engine.built]
        here = [e for e in engines if e.precision == "fp32"] if all(e.precision != "fp32" for e in own) else []
        names, precisions = {engine.name for engine in own}, {engine.precision for engine in own}
        for result in check_limits(limits, [*own, *here]):
            if result.limit in JUDGED and result.engine in names:
                found.append(result)
            elif result.limit in JUDGED and result.engine in precisions:  # asked by name, and none can be judged there
                found.append(result.model_copy(update={"engine": f"{one.name}: {result.engine}", "held": None}))
    return found


def _as_result(device: str, engine: DeviceEngine) -> EngineResult:
    precision, runtime, target = engine.parts
    measured = engine.latency_ms is not None and engine.top1_percent is not None
    return EngineResult(
        name=f"{device}: {engine.name}", precision=precision if precision in PRECISIONS else "fp32", runtime=runtime,
        target=target, measured=measured, reason=None if measured else "it was not measured there",
        engine_bytes=engine.engine_bytes,
        **({"top1_percent": engine.top1_percent, "latency_ms": engine.latency_ms,
            "speedup_vs_fp32": engine.speedup_vs_fp32} if measured else {}))

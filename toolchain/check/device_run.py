"""What engines did on a device, for the gate: RUN/devices/NAME as a run of its own, judged as one of this machine is.

The report, which its build signed with a digest, says which files belong to it: the answers, the times and the engines
that came back from the device.
"""

from __future__ import annotations

from pathlib import Path

from toolchain.check.finished_run import ANSWERS, TIMES, Run, joined, read_arrays, read_report
from toolchain.errors import WorkDirError, nearest
from toolchain.report.devices import DeviceEngine, DeviceResult
from toolchain.report.returned import prove, proven
from toolchain.report.schema import EngineResult, EnvironmentFacts, Gpu, Report


def read_device_run(folder: Path, name: str) -> Run:
    """What the device `name` did for the build in `folder`. Raises WorkDirError, DataError or DigestMismatch."""
    report = read_report(folder)
    device = _of(report, folder, name)
    place = folder / "devices" / name
    prove(place, device)
    answers, times = (read_arrays(proven(place / file, device)) for file in (ANSWERS, TIMES))
    return joined(_as_report(device, report), answers, times, place, name)


def _of(report: Report, folder: Path, name: str) -> DeviceResult:
    known = {one.name: one for one in report.devices}
    if name not in known:
        told = f"it has {', '.join(known)}" if known else "it has none of any"
        raise WorkDirError(f"{folder}: has no results of the device '{name}'{nearest(name, known)}; {told}; they come "
                           f"from `toolchain build RECIPE --on {name}`")
    if known[name].reason:
        raise WorkDirError(f"{folder}: has nothing of {name} to judge: {known[name].reason}; build again with "
                           f"--on {name}")
    return known[name]


def _as_report(device: DeviceResult, report: Report) -> Report:
    """The report of the build as if it had been made on the device alone."""
    facts = device.environment or {}
    gpu = facts.get("gpu")
    gpus = [Gpu(name=str(gpu.get("name")), sm=gpu.get("sm"), driver=_driver(facts))] if gpu else []
    prefix = f"{device.name}: "
    limits = [held.model_copy(update={"engine": held.engine.removeprefix(prefix)}) for held in report.limits
              if held.engine.startswith(prefix)]
    names = {engine.name for engine in device.engines}
    return report.model_copy(update={
        "environment": EnvironmentFacts(cpu=str(facts.get("cpu") or device.machine), gpus=gpus),
        "engines": [_as_engine(engine, device, names) for engine in device.engines], "limits": limits})


def _driver(facts: dict) -> str | None:
    """What serves its GPU: of a Jetson the release of its system, else what CUDA the driver serves."""
    told = facts.get("l4t") or (facts.get("gpu") or {}).get("cuda")
    return None if told is None else str(told)


def _as_engine(engine: DeviceEngine, device: DeviceResult, names: set[str]) -> EngineResult:
    precision, runtime, target = engine.parts
    reference = f"fp32.{runtime}.{target}" if f"fp32.{runtime}.{target}" in names else None
    measured = engine.built and engine.top1_percent is not None
    facts, settings = device.environment or {}, device.machine_settings or {}
    told = {field: settings.get(field) or facts.get(field) for field in ("governor", "power_mode")}
    figures = {"top1_percent": engine.top1_percent, "latency_ms": engine.latency_ms, "validity": engine.validity,
               "accuracy_reference": reference, "latency_reference": reference} if measured else {}
    return EngineResult(
        name=engine.name, precision=precision, runtime=runtime, target=target, sha256=engine.sha256, built=engine.built,
        engine_bytes=engine.engine_bytes, weight_bytes=engine.weight_bytes, measured=measured,
        reason=None if measured else engine.reason or "it was not judged there",
        machine_settings={field: value for field, value in told.items() if value},
        **{"runtime_version": engine.runtime_version, "golden_held": engine.golden_held,
           "latency_conditions": {"batch": device.batch, "threads": device.threads}, **figures})

"""What engines did on a device, for the gate: RUN/devices/NAME as a run of its own, judged as one of this machine is.

The report, which its build signed with a digest, says which files belong to it: the answers, the times and the engines
that came back from the device.
"""

from __future__ import annotations

from pathlib import Path

from toolchain.check.finished_run import ANSWERS, TIMES, Run, joined, read_arrays, read_report
from toolchain.errors import DigestMismatch, WorkDirError, nearest
from toolchain.files import sha256_file
from toolchain.report.devices import DeviceEngine, DeviceResult
from toolchain.report.schema import EngineResult, EnvironmentFacts, Gpu, Report

RECORD = "engine.json"


def read_device_run(folder: Path, name: str) -> Run:
    """What the device `name` did for the build in `folder`. Raises WorkDirError, DataError or DigestMismatch."""
    report = read_report(folder)
    device = _of(report, folder, name)
    place = folder / "devices" / name
    for engine in (engine for engine in device.engines if engine.built):
        _prove_engine(place / "engines" / engine.name, engine, name)
    answers, times = (read_arrays(_proven(place / file, device)) for file in (ANSWERS, TIMES))
    return joined(_as_report(device, report), answers, times, place, name)


def _of(report: Report, folder: Path, name: str) -> DeviceResult:
    known = {one.name: one for one in report.devices}
    if name not in known:
        told = f"it has {', '.join(known)}" if known else "it has none of any"
        raise WorkDirError(f"{folder}: has no results of the device '{name}'{nearest(name, known)}; {told}; they come "
                           f"from `toolchain build RECIPE --on {name}`")
    if known[name].reason:
        raise WorkDirError(f"{folder}: the build failed on {name}: {known[name].reason}; build again with --on {name}")
    return known[name]


def _proven(path: Path, device: DeviceResult) -> Path:
    """A file that came back, held against the digest in the report."""
    again = f"build again with --on {device.name}"
    if not path.is_file():
        raise WorkDirError(f"{path}: is missing; {again}")
    if path.name not in device.files:
        raise WorkDirError(f"{path}: the report does not tell its SHA-256, as an earlier version wrote it; {again}")
    if (found := sha256_file(path)) != device.files[path.name]:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {device.files[path.name][:16]} came from the "
                             f"device; the file was altered: {again}")
    return path


def _prove_engine(folder: Path, engine: DeviceEngine, device: str) -> None:
    files = [path for path in sorted(folder.glob("engine.*")) if path.name != RECORD]
    if not files:
        raise WorkDirError(f"{folder}: its engine is missing; build again with --on {device}")
    if all(sha256_file(path) != engine.sha256 for path in files):
        raise DigestMismatch(f"{files[0]}: is not the engine that came from {device}; the file was altered: build "
                             f"again with --on {device}")


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

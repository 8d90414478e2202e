"""Engines and ONNX files timed on a device, side by side, by the runner there; the statistics are worked out here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from toolchain.devices.remote import ask, job, needs, ready, send, with_id
from toolchain.devices.transport import Link
from toolchain.engines.record import EngineRecord
from toolchain.errors import DeviceError, EngineError
from toolchain.measure.latency import speedup
from toolchain.runner.contents import MACHINES, fitting
from toolchain.runner.rounds import summary
from toolchain.runner.trust import Refused


@dataclass(frozen=True)
class Timed:
    """One file to time. name: what tables call it. record: of an engine; None: an ONNX file, run as it is."""

    name: str
    file: Path
    sha256: str
    record: EngineRecord | None = None


async def bench(link: Link, files: Sequence[Timed], how: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """{"rows": as of `measure.bench.bench`, "threads", "environment": of `probe`, "conditions": what the runner saw}.

    how: batch, warmup, rounds, runs, attempts, seed and size, as `bench` of the runner takes them. threads: None: all
    cores there. Raises EngineError (an engine is not for this device), DeviceError.
    """
    facts = await ready(link)
    needs(facts, link)
    names = _plain([one.name for one in files])
    engines = [_engine(one, name, link, facts) for one, name in zip(files, names, strict=True)]
    content = with_id({"engines": engines, "threads": threads, "bench": dict(how)}, nonce=secrets.token_hex(8))
    await send(link, {one.sha256: one.file for one in files})
    known = dict(zip(names, files, strict=True))
    if any("onnx" in engine for engine in engines):
        _all_built((await _asked(link, "build", content, known))["engines"], known, link)
    answer = await _asked(link, "bench", content, known)
    with TemporaryDirectory(prefix="toolchain-bench-") as scratch:
        await link.fetch(f"{link.folder}/{answer['file']}", Path(scratch) / "latency.npz")
        with np.load(Path(scratch) / "latency.npz", allow_pickle=False) as stored:
            samples = {name: np.asarray(stored[name], np.float64) for name in names}
    await ask(link, "drop", content["id"])
    rows = []
    for one, name, engine in zip(files, names, engines, strict=True):
        told, ms = answer["engines"][name], samples[name]
        rows.append({
            "name": one.name, "input": told["input"], "latency_ms": summary(ms),
            "ratio": speedup(samples[names[0]], ms, how["seed"]) if name != names[0] else None,
            "images_per_s": 1e3 * how["batch"] / float(np.median(ms)), "validity": told["validity"],
            "runtime": engine["runtime"], "with_transfers_ms": told["with_transfers"], "energy": told["energy"]})
    return {"rows": rows, "threads": answer["threads"], "environment": facts, "conditions": answer["conditions"]}


def _engine(one: Timed, name: str, link: Link, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a job describes it. Raises EngineError, DeviceError."""
    blank = {"name": name, "batch": None, "workspace_mb": None, "sparse": False, "weight_bytes": None}
    if one.record is None:
        return blank | {"precision": "fp32", "compute": "fp32"} | _onnx(one, link, facts)
    record = one.record
    fields = ("name", "precision", "runtime", "runtime_version", "target", "device")
    described = {**{field: getattr(record, field) for field in fields}, "file": "file"}
    try:
        fitting({"engine": described, "files": {"file": {}}}, facts)
    except Refused as told:
        raise EngineError(f"{link.name}: {one.name}: {told}") from None
    return blank | {"precision": record.precision, "compute": record.compute, "runtime": record.runtime,
                    "target": record.target, "file": one.sha256, "batch": record.profile,
                    "weight_bytes": record.weight_bytes}


def _onnx(one: Timed, link: Link, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An ONNX file is what onnxruntime runs; TensorRT builds its engine from it first."""
    runtime = link.device.runtime or ("tensorrt" if "tensorrt" in facts["runtimes"] else "onnxruntime")
    if runtime not in facts["runtimes"]:
        raise DeviceError(f"{link.name}: {runtime} is not installed there (found {', '.join(facts['runtimes'])}); mend "
                          "runtime in devices.yaml")
    if runtime == "tensorrt":
        return {"runtime": runtime, "target": "local_gpu", "onnx": one.sha256}
    machine = str(facts["machine"]).lower()
    target = next((target for target, machines in MACHINES.items() if machine in machines), "cpu_x86")
    return {"runtime": runtime, "target": target, "file": one.sha256}


async def _asked(
    link: Link, command: str, content: Mapping[str, Any], known: Mapping[str, Timed]
) -> dict[str, Any]:
    """The answer to a job; an error calls files as they are called here. Raises DeviceError."""
    try:
        return await job(link, command, content)
    except DeviceError as error:
        told = str(error)
        for name, one in known.items():
            told = told.replace(one.sha256, one.name).replace(name, one.name)
        raise DeviceError(told) from None


def _all_built(engines: Mapping[str, Any], files: Mapping[str, Timed], link: Link) -> None:
    for name, told in engines.items():
        if "error" in told:
            raise EngineError(f"{link.name}: {files[name].name}: {told['error']}")


def _plain(names: Sequence[str]) -> list[str]:
    """Names that can be names of files too, no two alike."""
    return [f"{index}_{re.sub('[^A-Za-z0-9._-]+', '_', name)[-60:]}" for index, name in enumerate(names)]

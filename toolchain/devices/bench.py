"""Engines and ONNX files timed on a device, side by side, by the runner there; the statistics are worked out here."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from toolchain.console import log
from toolchain.devices.fit import hindrance
from toolchain.devices.remote import ask, job, needs, ready, send, with_id
from toolchain.devices.transport import Link
from toolchain.engines.record import EngineRecord
from toolchain.errors import DeviceError, EngineError, RecipeError, ToolchainError
from toolchain.measure.latency import speedup
from toolchain.runner.contents import MACHINES
from toolchain.runner.rounds import summary

STOP_S = 5  # to reach a device whose work nobody waits for any more


@dataclass(frozen=True)
class Timed:
    """One file to time. name: what tables call it. record: of an engine; None: an ONNX file, run as it is. runtime:
    what runs an ONNX file; None: what the device has for them. optional: left out where the device cannot run it.
    """

    name: str
    file: Path
    sha256: str
    record: EngineRecord | None = None
    runtime: str | None = None
    optional: bool = False


async def bench(link: Link, asked: Sequence[Timed], how: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """{"rows": as of `measure.bench.bench`, "threads", "environment": of `probe`, "conditions": what the runner saw}.

    how: batch, warmup, rounds, runs, attempts, seed and size, as `bench` of the runner takes them. threads: None: all
    cores there. Raises EngineError (an engine is not for this device), RecipeError, DeviceError. Nothing of it goes on
    there, or is left, when it fails or is interrupted, as far as the device can be told.
    """
    facts = await ready(link)
    needs(facts, link)
    if threads and threads > facts["cores"]:
        raise RecipeError(f"--threads: found {threads}, but {link.name} has {facts['cores']} cores; more threads than "
                          f"cores wait for each other; expected 1 to {facts['cores']}")
    files = _for_device(asked, link, facts)
    names = _plain([one.name for one in files])
    engines = [_engine(one, name, link, facts) for one, name in zip(files, names, strict=True)]
    content = with_id({"engines": engines, "threads": threads, "bench": dict(how)}, nonce=secrets.token_hex(8))
    await send(link, {one.sha256: one.file for one in files})
    link.again = "the same command times anew; what was sent is not sent again"
    try:
        answer, samples = await _measured(link, content, dict(zip(names, files, strict=True)))
    except BaseException as error:
        await _stopped(link, content["id"], isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)))
        raise
    await ask(link, "drop", content["id"])
    rows, first = [], next(iter(samples))
    for one, name, engine in zip(files, names, engines, strict=True):
        if name not in samples:
            continue
        told, ms = answer["engines"][name], samples[name]
        rows.append({
            "name": one.name, "input": told["input"], "latency_ms": summary(ms),
            "ratio": speedup(samples[first], ms, how["seed"]) if name != first else None,
            "images_per_s": 1e3 * how["batch"] / float(np.median(ms)), "validity": told["validity"],
            "runtime": engine["runtime"], "with_transfers_ms": told["with_transfers"], "energy": told["energy"]})
    return {"rows": rows, "threads": answer["threads"], "environment": facts, "conditions": answer["conditions"]}


async def _measured(
    link: Link, content: Mapping[str, Any], known: Mapping[str, Timed]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer to the job, and the milliseconds (rounds, runs) of every engine that could be built there. known: the
    files, by their names there.
    """
    if any("onnx" in engine for engine in content["engines"]):
        _all_built((await _asked(link, "build", content, known))["engines"], known, link)
    answer = await _asked(link, "bench", content, known)
    with TemporaryDirectory(prefix="toolchain-bench-") as scratch:
        await link.fetch(f"{link.folder}/{answer['file']}", Path(scratch) / "latency.npz")
        with np.load(Path(scratch) / "latency.npz", allow_pickle=False) as stored:
            return answer, {name: np.asarray(stored[name], np.float64)
                            for name in known if name in answer["engines"]}


async def _stopped(link: Link, name: str, interrupted: bool) -> None:
    """Have the device end the job and forget it, if it can be reached in a few seconds; an interruption is told."""
    told = "its bench is stopped, and nothing of it is left there"
    try:
        await asyncio.wait_for(ask(link, "stop", name), STOP_S)
    except (ToolchainError, asyncio.TimeoutError):
        told = "it could not be told to stop: its bench may go on there until it is done"
    if interrupted:
        log(f"{link.name}: {told}")


def _for_device(asked: Sequence[Timed], link: Link, facts: Mapping[str, Any]) -> list[Timed]:
    """Those that the device can run; of a whole build the others are left out. Raises EngineError."""
    found, errors = [], []
    for one in asked:
        why = hindrance(one.record, facts) if one.record else None
        if why is None:
            found.append(one)
            continue
        errors.append(f"{one.name}: is not for this device: {why}")
        if not one.optional:
            raise EngineError(f"{link.name}: {errors[-1]}")
    if not found:
        raise EngineError(f"{link.name}: none of these engines can run there: {'; '.join(errors)}")
    for error in errors:
        log(f"{link.name}: left out: {error}")
    return found


def _engine(one: Timed, name: str, link: Link, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a job describes it. Raises DeviceError."""
    blank = {"name": name, "batch": None, "workspace_mb": None, "sparse": False, "weight_bytes": None}
    if one.record is None:
        return blank | {"precision": "fp32", "compute": "fp32"} | _onnx(one, link, facts)
    record = one.record
    opens = one.optional and record.runtime == "onnxruntime"  # what is built there is opened first, and may fail alone
    return blank | {"precision": record.precision, "compute": record.compute, "runtime": record.runtime,
                    "target": record.target, "onnx" if opens else "file": one.sha256, "batch": record.profile,
                    "weight_bytes": record.weight_bytes}


def _onnx(one: Timed, link: Link, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An ONNX file is what onnxruntime runs; TensorRT builds its engine from it first."""
    runtime = one.runtime or link.device.runtime or (
        "tensorrt" if "tensorrt" in facts["runtimes"] else "onnxruntime")
    if runtime not in facts["runtimes"]:
        raise DeviceError(f"{link.name}: {runtime} is not installed there (found {', '.join(facts['runtimes'])}); mend "
                          + ("--runtime" if one.runtime else "runtime in devices.yaml"))
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
            why = f"{files[name].name}: " + str(told["error"]).removeprefix(f"{name}: ")
            if not files[name].optional:
                raise EngineError(f"{link.name}: {why}")
            log(f"{link.name}: left out: {why}")


def _plain(names: Sequence[str]) -> list[str]:
    """Names that can be names of files too, no two alike."""
    return [f"{index}_{re.sub('[^A-Za-z0-9._-]+', '_', name)[-60:]}" for index, name in enumerate(names)]

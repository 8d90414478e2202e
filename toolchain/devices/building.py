"""Engines built on a device from ONNX files, proven by golden inputs, judged on the test set and timed there."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.console import log
from toolchain.devices.fetched import answers_are, latencies
from toolchain.devices.file import Device
from toolchain.devices.fit import builds_own, hindrance, unfit
from toolchain.devices.many import each, refuse_failed
from toolchain.devices.remote import forget, job, job_again, needs, ready, send, with_id
from toolchain.devices.transport import Link
from toolchain.engines.record import EngineRecord, read_record
from toolchain.errors import DeviceError, EngineError, ToolchainError
from toolchain.files import sha256_file
from toolchain.measure.latency import speedup
from toolchain.recipe.schema import Engine
from toolchain.runner.rounds import summary

PREDICTIONS, LATENCY = "predictions.npz", "latency.npz"
MEASURED = ("accuracy", "bench")  # the runner's commands
FETCHES = 3  # of files that another command may replace meanwhile


@dataclass(frozen=True)
class Portable:
    """An engine that a device makes its own of. onnx: the file it was built from. logits: its golden ones, and how far
    a device may be away; None: it has none.
    """

    record: EngineRecord
    onnx: Path
    logits: Path | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Judged:
    """What engines are judged on. images: .npz files of uint8 images and labels. golden: .npy of uint8 images."""

    images: Sequence[Path]
    preprocess: Mapping[str, Any]
    golden: Path
    how: Mapping[str, int]
    threads: int | None


def ask_first(devices: Mapping[str, Device], threads: int | None, engines: Mapping[str, Engine]) -> None:
    """Ask devices, before hours are spent here, what would stop them afterwards. One of several that fails is told,
    and asked again when it is its turn. Raises DeviceError where all do.
    """
    found = each(devices, lambda link: _suits(link, threads, engines))
    failed = {name: error for name, error in found.items() if isinstance(error, ToolchainError)}
    if len(failed) == len(found):
        try:
            refuse_failed(found)
        except DeviceError as told:
            raise DeviceError(f"{told}\nnothing was built; mend that, or leave --on out to build here alone") from None
    for name, error in failed.items():
        log(f"{name}: {str(error).removeprefix(f'{name}: ')}; the build goes on without it, and asks it again at its "
            "end")


async def build(
    link: Link, asked: Sequence[Portable], on: Judged, folder: Path, remeasure: bool = False
) -> dict[str, Any]:
    """What report.DeviceResult says of the device. Engines, engine.json, predictions.npz and latency.npz are left in
    `folder`. Raises EngineError (none is for this device), DeviceError (also: fewer cores than threads).

    The same command goes on after a cut, and answers at once what is finished there, unless it is to be measured anew.
    What it left there stays for a while: another command may have asked the same, and fetch it still.
    """
    facts = await _able(link, on.threads)
    own, left_out = _own(asked, facts)
    if not own:
        raise _none_for(link, left_out)
    golden = {name: {"logits": sha256_file(one.logits), "tolerance": one.tolerance}
              for name, (one, _) in own.items() if one.logits}
    content: dict[str, Any] = {
        "engines": [engine for _, engine in own.values()], "threads": on.threads, "preprocess": dict(on.preprocess),
        "images": [sha256_file(path) for path in on.images], "bench": dict(on.how)}
    if golden:
        content["golden"] = {"images": sha256_file(on.golden), "engines": golden}
    content = with_id(content)
    files = [*(one.onnx for one, _ in own.values()), *on.images,
             *([on.golden, *(one.logits for one, _ in own.values() if one.logits)] if golden else [])]
    await send(link, {sha256_file(path): path for path in files})
    built = (await job(link, "build", content))["engines"]
    replayed = (await job(link, "golden", content))["engines"] if golden else {}
    if remeasure:
        await forget(link, content, *MEASURED)
    judged, timed, samples = await _measured(link, content, folder)
    engines = []
    for name in own:  # by our names: a device does not choose where files lie here
        told = built[name]
        if "error" in told:
            engines.append({"name": name, "built": False, "reason": told["error"]})
            continue
        await _bring(link, told, folder / "engines" / name)
        engines.append({
            "name": name, "built": True, "onnx_sha256": own[name][0].record.onnx_sha256,
            "weight_bytes": own[name][0].record.weight_bytes,
            **{field: told[field] for field in ("sha256", "engine_bytes", "runtime_version")},
            "golden_held": replayed[name]["held"] if name in replayed else None,
            "golden_distance": replayed[name]["distance"] if name in replayed else None,
            "top1_percent": judged["engines"][name]["top1_percent"], "latency_ms": summary(samples[name]),
            "with_transfers_ms": timed["engines"][name]["with_transfers"],
            "end_to_end_ms": timed["engines"][name]["end_to_end"], "energy": timed["engines"][name]["energy"],
            "validity": timed["engines"][name]["validity"], "speedup_vs_fp32": _speedup(name, samples, on.how["seed"])})
    machine = (facts["gpu"] or {}).get("name") or facts["cpu"]
    return {"name": link.name, "machine": machine, "batch": timed["batch"], "threads": timed["threads"],
            "engines": engines, "left_out": left_out, "machine_settings": timed["conditions"]["after"],
            "environment": dict(facts), "files": {name: sha256_file(folder / name) for name in (PREDICTIONS, LATENCY)}}


async def _suits(link: Link, threads: int | None, engines: Mapping[str, Engine]) -> None:
    """Raise what `_able` does, and EngineError where the device can run none of these engines."""
    if why := unfit(engines, await _able(link, threads)):
        raise _none_for(link, why)


def _none_for(link: Link, why: Mapping[str, str]) -> EngineError:
    return EngineError(f"{link.name}: no engine of this build is for it: "
                       + "; ".join(f"{name}: {told}" for name, told in why.items()))


async def _able(link: Link, threads: int | None) -> dict[str, Any]:
    """What the device has. Raises DeviceError where it cannot be reached, or could build and time nothing."""
    facts = await ready(link)
    needs(facts, link)
    if threads and threads > facts["cores"]:
        raise DeviceError(f"{link.name}: has {facts['cores']} cores, and measure.threads asks for {threads}; more "
                          "threads than cores wait for each other: leave it out, and each machine takes its own")
    return facts


async def _measured(link: Link, content: Mapping[str, Any], folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The answers of `accuracy` and `bench`, and the milliseconds of every engine; the files that they tell of are in
    `folder` then, although others measure the same there. Raises DeviceError where they never end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged, timed = [await job(link, command, content) for command in MEASURED]
    for again in range(FETCHES):
        if again:
            judged, timed = [await job_again(link, command, content) for command in MEASURED]
        for name, answer in ((PREDICTIONS, judged), (LATENCY, timed)):
            await link.fetch(posixpath.join(link.folder, answer["file"]), folder / name)
        samples = latencies(folder / LATENCY, timed["engines"])
        if samples is not None and answers_are(folder / PREDICTIONS, judged["engines"]):
            return judged, timed, samples
    raise DeviceError(f"{link.name}: the files that came are not those of its answers, {FETCHES} times; does another "
                      "command measure the same there? Run the same command again when it has ended")


def _own(asked: Sequence[Portable], facts: Mapping[str, Any]
         ) -> tuple[dict[str, tuple[Portable, dict[str, Any]]], dict[str, str]]:
    """The engines that the device builds, by the names they have there, as a job describes them; and why not others."""
    found: dict[str, tuple[Portable, dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for one in asked:
        record = one.record
        runtime, target = record.runtime, record.target
        if builds_own(runtime, facts):
            runtime, target = "tensorrt", "local_gpu"
        elif why := hindrance(record, facts):
            left_out[record.name] = why
            continue
        name = f"{record.precision}.{runtime}.{target}"
        if name in found:
            left_out[record.name] = f"{name} is built there already"
            continue
        found[name] = one, {
            "name": name, "precision": record.precision, "compute": record.compute, "runtime": runtime,
            "target": target, "onnx": record.onnx_sha256, "batch": record.profile if runtime == "tensorrt" else None,
            "workspace_mb": None, "sparse": bool(record.sparse), "weight_bytes": record.weight_bytes}
    return found, left_out


async def _bring(link: Link, told: Mapping[str, Any], folder: Path) -> None:
    """The engine and its engine.json, both held against the digest that the device told. Raises DeviceError,
    EngineError (engine.json is none).
    """
    engine = folder / posixpath.basename(told["file"])
    for file in (engine, folder / "engine.json"):
        await link.fetch(posixpath.join(link.folder, told["folder"], file.name), file)
    if {sha256_file(engine), read_record(folder).sha256} != {told["sha256"]}:
        raise DeviceError(f"{link.name}: {engine} is not the engine that was built there; run the same command again")


def _speedup(name: str, samples: Mapping[str, Any], seed: int) -> dict[str, float] | None:
    """Over the FP32 engine of the same runtime and target; None for that one, and where there is none."""
    reference = f"fp32.{name.partition('.')[2]}"
    return speedup(samples[reference], samples[name], seed) if name != reference and reference in samples else None

"""After a build: the same engines built, judged and timed on devices, and the report with a row for each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain.devices.building import Judged, Portable, build
from toolchain.devices.many import each
from toolchain.engines.record import verify
from toolchain.errors import DeviceError, ToolchainError
from toolchain.files import sha256_file, write_text
from toolchain.measure.accuracy import wilson_interval
from toolchain.measure.npz import save_arrays
from toolchain.published import REPORT, proven, record
from toolchain.recipe.schema import Recipe
from toolchain.report.device_limits import device_limits
from toolchain.report.devices import DeviceResult
from toolchain.report.make import write_report
from toolchain.report.returned import prove
from toolchain.report.schema import Report
from toolchain.steps.golden import FOLDER, INDEX, PICTURES
from toolchain.steps.job import Job
from toolchain.steps.pruned_facts import SHEET

if TYPE_CHECKING:
    from toolchain.devices.file import Device

PART_BYTES = 16 << 20  # of images in one file, so that a device needs little memory


def on_devices(
    job: Job, report: Report, devices: Mapping[str, Device], remeasure: bool = False
) -> tuple[Report, dict[str, Any]]:
    """The report with its `devices`, written anew; and what was found by device: of one that failed its error.

    Engines, samples and result.json of each are left in RUN/devices/<name>; what other devices gave for the same ONNX
    files before stays in the report. Raises DataError, EngineError, DigestMismatch.
    """
    run = job.work.out
    asked = _portable(run, report)
    how = _how(job.recipe)
    digest, threads = _asked_of(run, report, how), how.pop("threads")
    with TemporaryDirectory(prefix="toolchain-devices-") as scratch:
        preprocess = json.loads((run / "preprocess.json").read_text(encoding="utf-8"))
        judged = Judged(_images(job, Path(scratch)), preprocess, run / FOLDER / PICTURES, how, threads)
        found = each(devices, lambda link: build(link, asked, judged, run / "devices" / link.name, remeasure))
    before = {one.name: one for one in _remembered(run, report, digest)}
    results = []
    for name, one in found.items():
        if isinstance(one, ToolchainError):
            reason = str(one).removeprefix(f"{name}: ")
            earlier = before.get(name, DeviceResult(name=name))
            results.append(earlier.model_copy(update={"reason": reason}))
            continue
        result = _with_intervals(DeviceResult.model_validate({**one, "asked_sha256": digest}), report.data.test)
        results.append(result)
        write_text(run / result_file(name), result.model_dump_json(indent=1) + "\n")
        record(run, result_file(name))
    others = [one for name, one in before.items() if name not in found]
    unheld = {one.name: DeviceError(f"{one.name}: {told}") for one in results
              if not one.reason and (told := wrong(one))}
    return _shown(job.recipe, run, report, [*results, *others]), found | unheld


def _asked_of(run: Path, report: Report, how: Mapping[str, Any]) -> str:
    """SHA-256 of what devices are asked, beside the engines: results of other test images or ways do not compare."""
    told = {"how": dict(how), "split": report.data.split_sha256, "preprocess": sha256_file(run / "preprocess.json")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _with_intervals(result: DeviceResult, images: int) -> DeviceResult:
    """With the 95 % interval of each top-1."""
    engines = [one if one.top1_percent is None else one.model_copy(
        update={"top1_interval": wilson_interval(round(one.top1_percent * images / 100), images)})
        for one in result.engines]
    return result.model_copy(update={"engines": engines})


def as_before(recipe: Recipe, run: Path, report: Report) -> Report:
    """The report with what devices gave for the very ONNX files of this build in earlier ones; written anew."""
    known = _remembered(run, report, _asked_of(run, report, _how(recipe)))
    return _shown(recipe, run, report, known) if known else report


def _how(recipe: Recipe) -> dict[str, Any]:
    """How engines are timed, as the runner's `bench` takes it, and on how many threads."""
    cfg = recipe.measure
    return {"batch": cfg.batch, "warmup": cfg.warmup, "rounds": cfg.rounds, "runs": cfg.runs_per_round,
            "attempts": cfg.attempts, "seed": recipe.seed, "threads": cfg.threads}


def result_file(name: str) -> str:
    """Where the result of the device `name` lies below the build's folder."""
    return f"devices/{name}/result.json"


def _shown(recipe: Recipe, run: Path, report: Report, results: Sequence[DeviceResult]) -> Report:
    judged = device_limits(recipe.limits, results, report.engines)
    report = report.model_copy(update={"devices": list(results), "limits": [*report.limits, *judged]})
    sheets = [path.read_bytes() if (path := run / name).is_file() else None for name in ("gradcam.png", SHEET)]
    write_report(report, run, *sheets)
    record(run, REPORT)
    return report


def _remembered(run: Path, report: Report, asked: str) -> list[DeviceResult]:
    """What earlier builds left of devices; of one whose results do not stand beside this build's only the reason."""
    onnx = {verify(run / "engines" / engine.name)[0].onnx_sha256 for engine in report.engines if engine.built}
    found = []
    for path in sorted((run / "devices").glob("*/result.json")):
        name = path.parent.name
        try:
            one = DeviceResult.model_validate_json(proven(run, result_file(name)).read_bytes())
            prove(path.parent, one)
        except (ToolchainError, ValueError) as error:
            why = f"what it gave before is not whole: {error}" if isinstance(error, ToolchainError) else (
                "what it gave before cannot be read")
            found.append(DeviceResult(name=name, reason=f"{why}; --on {name} makes it anew"))
            continue
        other = "engines of an earlier build" if any(
            engine.onnx_sha256 not in onnx for engine in one.engines if engine.built) else (
            "other test images or another way of measuring" if one.asked_sha256 != asked else None)
        found.append(DeviceResult(name=name, reason=f"what it gave before is of {other}; --on {name} makes it anew")
                     if other else one)
    return found


def wrong(result: DeviceResult) -> str:
    """What is not as it should be with the engines on a device that did its work; "" where all is well."""
    return "; ".join(
        f"{engine.name} " + ("does not give its golden answers there" if engine.built else
                             f"could not be built there: {engine.reason}")
        for engine in result.engines if not engine.built or engine.golden_held is False)


def _portable(run: Path, report: Report) -> list[Portable]:
    """Every built engine with the ONNX file it was built from, and its golden logits."""
    onnx = {sha256_file(path): path for path in sorted((run / "onnx").glob("*.onnx"))}
    golden = json.loads((run / FOLDER / INDEX).read_text(encoding="utf-8"))["engines"]
    found = []
    for engine in report.engines:
        if not engine.built:
            continue
        record, _ = verify(run / "engines" / engine.name)
        facts = golden.get(engine.name)
        if record.onnx_sha256 in onnx:
            found.append(Portable(record, onnx[record.onnx_sha256],
                                  run / FOLDER / f"{engine.name}.npy" if facts else None,
                                  facts["tolerance"] if facts else 0.0))
    return found


def _images(job: Job, folder: Path) -> Sequence[Path]:
    """The test set as uint8 files of some MB each: the same set gives the same bytes, so that it is sent once."""
    import numpy as np

    data = job.dataset()
    side = data.preprocess.image_size
    step = max(1, PART_BYTES // (3 * side * side))
    files = []
    for start in range(0, len(data.test), step):
        chosen = np.arange(start, min(start + step, len(data.test)))
        files.append(folder / f"{start}.npz")
        labels = data.test.labels[chosen].astype(np.int64)
        save_arrays(files[-1], {"images": data.test.images(chosen), "labels": labels})
    return files

"""The baseline: what a run was, in a text file for git. One a device.

It keeps for each engine what it answered to each test image (a kilobyte or so of packed text for 10,000 images), its
sizes and its speed-up over FP32 in each round. The images themselves are not in it: their keys are kept as one digest,
so that another test set is refused and never compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from toolchain.check.finished_run import Run
from toolchain.check.pack import numbers, packed, read_numbers, unpacked
from toolchain.errors import DataError, DeviceError
from toolchain.files import json_with, refuse_other
from toolchain.report.part import Bytes, Part, Percent, Positive
from toolchain.report.schema import EngineResult, Report

SCHEMA_VERSION: Literal[1] = 1
LARGEST_FILE = 64 << 20  # bytes
LARGEST_TEST_SET = 10_000_000
OURS = json_with("recipe", "recipe_sha256")  # whatever its version, and where it was edited
NAME_ONE = "name the file that `toolchain baseline` wrote"


class Conditions(Part):
    """What must be equal for two latencies, or two peaks of memory, to be compared."""

    device: str | None = Field(None, description="the CPU's or GPU's name")
    driver: str | None = Field(None, description="the GPU's; a baseline of an earlier version does not tell")
    runtime_version: str | None = None
    batch: int | None = None
    threads: int | None = None
    governor: str | None = Field(None, description="of the CPU's clock")
    power_mode: str | None = Field(None, description="of a device that has several")

    def unlike(self, other: Conditions) -> list[str]:
        """What differs, in words: 'threads 2, not 4' is self's and other's."""
        told = (name for name in type(self).model_fields if name != "driver" or name in other.model_fields_set)
        return [f"{name.replace('_', ' ')} {mine!r}, not {theirs!r}" for name in told
                if (mine := getattr(self, name)) != (theirs := getattr(other, name))]


class Images(Part):
    """Which test images were answered."""

    n: int = Field(ge=0, le=LARGEST_TEST_SET)
    keys_sha256: str = Field(description="over the sorted keys of the images")
    labels_sha256: str = Field(description="over their labels, in the same order")


class BaselineEngine(Part):
    """One engine as it was."""

    precision: str
    sha256: str | None = None
    engine_bytes: Bytes | None = None
    weight_bytes: Bytes | None = None
    peak_memory_bytes: Bytes | None = None
    conditions: Conditions = Conditions()
    top1_percent: Percent | None = None
    accuracy_reference: str | None = Field(None, description="the FP32 engine that its answers are compared with")
    answers: str | None = Field(None, description="by image, in order of their keys: 0 right, or the answer + 1; null: "
                                                  "not measured")
    p50_ms: Positive | None = None
    latency_reference: str | None = None
    speedup_by_round: str | None = Field(None, description="latency of the FP32 engine / its own, in each round")
    inconclusive: list[str] = Field([], description="what speaks against the latency")


class Baseline(Part):
    """The whole file; `load_baseline` reads it back."""

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: str
    recipe_sha256: str = Field(description="of the recipe with every default")
    device: str | None = Field(None, description="by its name in devices.yaml; null: the machine that built")
    images: Images
    engines: dict[str, BaselineEngine] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_word_unpacks(self) -> Baseline:
        for name, engine in self.engines.items():
            try:
                if engine.answers is not None:
                    unpacked(engine.answers, self.images.n)
                if engine.speedup_by_round is not None and not len(read_numbers(engine.speedup_by_round)):
                    raise ValueError("speedup_by_round holds no round")
                if engine.answers is None and engine.top1_percent is not None:
                    raise ValueError("has a top-1 and no answers")
            except ValueError as error:
                raise ValueError(f"engines.{name}: {error}") from None
        return self

    def to_json(self) -> str:
        """The file's text; the same run gives the same bytes."""
        content = self.model_dump(mode="json", exclude=None if self.device else {"device"})
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def make_baseline(run: Run) -> Baseline:
    """What is kept of a run. Raises DeviceError where an engine gave wrong answers on the device."""
    if wrong := [engine.name for engine in run.report.engines if getattr(engine, "golden_held", None) is False]:
        raise DeviceError(f"on {run.device} {', '.join(wrong)} did not answer the golden inputs as where built, so "
                          "`check` would fail with such a baseline for ever; nothing was written: leave what fails out "
                          f"of the recipe, or mend the device, and build again with --on {run.device}")
    return Baseline(
        recipe=str(run.report.recipe.get("name")), recipe_sha256=recipe_digest(run.report),
        device=run.device,
        images=Images(n=len(run.labels), keys_sha256=run.keys_sha256, labels_sha256=run.labels_sha256),
        engines={engine.name: kept(engine, run) for engine in run.report.engines if engine.built})


def kept(engine: EngineResult, run: Run) -> BaselineEngine:
    """What is kept of one engine."""
    codes, ratios, name = run.codes.get(engine.name), run.ratios.get(engine.name), engine.name
    return BaselineEngine(
        precision=engine.precision, sha256=engine.sha256, engine_bytes=engine.engine_bytes,
        weight_bytes=engine.weight_bytes, peak_memory_bytes=engine.peak_memory_bytes,
        conditions=conditions(engine, run.report), top1_percent=engine.top1_percent,
        accuracy_reference=engine.accuracy_reference, answers=None if codes is None else packed(codes),
        p50_ms=engine.latency_ms.p50 if engine.latency_ms else None, latency_reference=engine.latency_reference,
        speedup_by_round=None if ratios is None or engine.latency_reference == name else numbers(ratios),
        inconclusive=doubts(engine))


def conditions(engine: EngineResult, report: Report) -> Conditions:
    """Where and how an engine was measured."""
    version: str | None = getattr(engine, "runtime_version", None)  # the schema declares not all that a report holds
    timed, machine = (getattr(engine, name, None) or {} for name in ("latency_conditions", "machine_settings"))
    on_gpu = engine.runtime in ("tensorrt", "tensorrt_rtx") or engine.target == "cuda"
    gpu = report.environment.gpus[0] if report.environment.gpus and on_gpu else None
    device = (gpu.name if gpu else None) if on_gpu else report.environment.cpu
    return Conditions(device=device, driver=gpu.driver if gpu else None, runtime_version=version,
                      batch=timed.get("batch"), threads=None if on_gpu else timed.get("threads"),
                      governor=machine.get("governor"), power_mode=machine.get("power_mode"))


def doubts(engine: EngineResult) -> list[str]:
    """Why the engine's latency is inconclusive; empty where it is not."""
    return list(engine.validity.causes) if engine.validity else []


def recipe_digest(report: Report) -> str:
    """SHA-256 of the recipe with every default, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(report.recipe, sort_keys=True).encode()).hexdigest()


def default_file(run: Run) -> Path:
    """baselines/<recipe>.<device>.json, since a baseline belongs to a device."""
    if run.device:
        return Path("baselines") / f"{run.report.recipe.get('name')}.{run.device}.json"
    found = [conditions(engine, run.report).device for engine in run.report.engines if engine.name in run.codes]
    device = next((device for device in found if device), "unknown device")
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return Path("baselines") / f"{run.report.recipe.get('name')}.{slug}.json"


def refuse_replaced(path: Path) -> None:
    """Raise RecipeError where a file is there that is no baseline; WorkDirError."""
    refuse_other(path, "a baseline", OURS)


def load_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises DataError naming the file and every field that is not as it should be."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are no baseline; expected at most "
                                 f"{LARGEST_FILE:,}")
        text = path.read_bytes()
        content = json.loads(text.decode("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it with `toolchain baseline RUN "
                             f"-o {path}`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {NAME_ONE}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}), as a baseline is; {NAME_ONE}, or restore it from git") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version: found {version!r}, expected {SCHEMA_VERSION}; "
                        + ("make the baseline again with this version" if OURS(text) else NAME_ONE))
    try:
        return Baseline.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}".lstrip(": ")
                          for e in error.errors()[:5])
        raise DataError(f"{path}: {wrong}; "
                        + ("restore it from git, or make it again" if OURS(text) else NAME_ONE)) from None

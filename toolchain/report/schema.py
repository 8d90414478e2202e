"""report.json: the contract between a build and everything that reads its result.

A measurement that was not taken is null, never a number made up. A reader keeps keys that it does not know, so a
later version may add some; a change of meaning raises `schema_version`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from toolchain.errors import RecipeError
from toolchain.report.contract import Contract
from toolchain.report.devices import DeviceResult
from toolchain.report.fidelity import Fidelity, Taught
from toolchain.report.part import Bytes, Energy, Latency, Part, Percent, Positive, Speedup
from toolchain.report.pruned import Pruning
from toolchain.report.quantized import Quantization
from toolchain.report.validity import Validity

SCHEMA_VERSION: Literal[1] = 1


class Gpu(Part):
    """One GPU as its driver describes it."""

    name: str
    sm: int | None = Field(None, description="compute capability times ten: 86 for 8.6")
    driver: str | None = None
    memory_bytes: Bytes | None = None


class EnvironmentFacts(Part):
    """Where the build ran."""

    python: str | None = None
    platform: str | None = None
    cpu: str | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    usable_cores: int | None = Field(None, description="after the affinity mask and a container's quota")
    instruction_sets: list[str] = []
    memory_bytes: Bytes | None = None
    load_average: list[float] | None = Field(None, description="1, 5 and 15 minutes; null where the system has none")
    gpus: list[Gpu] = []
    gpu_reason: str | None = Field(None, description="why `gpus` is empty")
    packages: dict[str, str | None] = Field({}, description="distribution -> version, null: not installed")


class Calibration(Part):
    """Where the calibration images came from."""

    source: str
    images: int = Field(ge=0)


class DataFacts(Part):
    """What was learned from and judged on."""

    name: str
    classes: list[str]
    train: int = Field(ge=0, description="images")
    val: int = Field(ge=0, description="images")
    test: int = Field(ge=0, description="images")
    split_sha256: str
    calibration: Calibration | None = None
    preprocess: dict[str, Any] | None = Field(None, description="preprocess.json; null: of an earlier version")


class StageResult(Part):
    """One stage of the pipeline."""

    name: str
    key: str
    cached: bool
    seconds: float | None = Field(None, ge=0)


class Change(Part):
    """Top-1 minus the reference's in points, image by image, with a paired bootstrap 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Transfer(Part):
    """Median milliseconds of copying one batch to the GPU and its logits back; not part of `latency_ms`."""

    to_device: float = Field(ge=0)
    from_device: float = Field(ge=0)


class Throughput(Part):
    """Images per second at one batch size."""

    batch: int = Field(ge=1)
    images_per_s: Positive


class Gap(Part):
    """How far the ONNX file computes from the file it was made from."""

    max_abs: float | None = Field(None, ge=0)
    relative: float | None = Field(None, ge=0)
    argmax_agreement: float | None = None


class Sparse(Part):
    """Layers with weights of a TensorRT engine; null where the builder does not tell."""

    layers: int = Field(ge=0)
    in_file: int = Field(ge=0, description="2:4 sparse in the ONNX file")
    eligible: int | None = Field(None, ge=0, description="for sparse tactics")
    chosen: int | None = Field(None, ge=0, description="run by sparse tactics")


class EngineResult(Part):
    """One engine: what it is, and what was measured on it here."""

    name: str
    precision: str
    runtime: str
    target: str
    path: str | None = None
    sha256: str | None = None
    engine_bytes: Bytes | None = None
    deflate_bytes: Bytes | None = Field(None, description="the engine file as a zlib stream of level 6")
    weight_bytes: Bytes | None = None
    bitmap_bytes: Bytes | None = Field(
        None, description="weight_bytes with zeros packed: a bit for each weight, and those that are not zero")
    two_of_four_bytes: Bytes | None = Field(
        None, description="the same of a 2:4 network: half of the weights, and two bits for the place of each")
    sparse: Sparse | None = Field(None, description="of a TensorRT engine with 2:4 sparse layers")
    unpruned: bool = Field(False, description="the network before pruning: a reference that no limit judges")
    built: bool = Field(True, description="false: `reason` says why it could not be built")
    measured: bool
    reason: str | None = Field(None, description="why it was not measured")
    top1_percent: Percent | None = None
    top1_interval: tuple[Percent, Percent] | None = Field(None, description="95 %")
    top5_percent: Percent | None = None
    agreement_percent: Percent | None = Field(None, description="share of images answered as the FP32 engine does")
    top1_change_vs_fp32: Change | None = None
    accuracy_reference: str | None = Field(None, description="name of the FP32 engine it is compared with")
    latency_ms: Latency | None = Field(None, description="device only: one batch in its memory already, so are logits")
    with_transfers_ms: Latency | None = Field(None, description="from an array of the host to its logits there")
    end_to_end_ms: Latency | None = Field(None, description="from uint8 pixels of the right size to a class")
    machine_settings: dict[str, Any] | None = Field(None, description="clocks, heat, power mode right after the timing")
    validity: Validity | None = Field(None, description="of the latency; null: not timed, or by an earlier version")
    transfer_ms: Transfer | None = Field(None, description="null on a CPU")
    speedup_vs_fp32: Speedup | None = None
    latency_reference: str | None = Field(None, description="name of the FP32 engine whose latency is divided by this")
    speedup_vs_unpruned: Speedup | None = Field(None, description="latency of the unpruned FP32 engine, over this")
    unpruned_reference: str | None = Field(None, description="name of that engine, among the report's `unpruned`")
    top1_change_vs_unpruned: Change | None = None
    throughput: list[Throughput] = []
    energy: Energy | None = Field(None, description="null where the device has no counter that may be read")
    peak_memory_bytes: Bytes | None = None
    compute: Any = Field(None, description="what the engine really computes in, where known")
    gap: Gap | None = None
    contract: Contract | None = Field(None, description="what was asked of its layers against what it runs")

    @model_validator(mode="after")
    def _no_invented_measurements(self) -> EngineResult:
        if self.measured:
            return self
        if not self.reason:
            raise ValueError("measured is false, so `reason` must say why")
        figures = ("top1_percent", "top5_percent", "agreement_percent", "latency_ms", "speedup_vs_fp32",
                   "top1_change_vs_fp32", "transfer_ms", "speedup_vs_unpruned", "top1_change_vs_unpruned")
        filled = [field for field in figures if getattr(self, field) is not None]
        if filled or self.throughput:
            raise ValueError(f"measured is false, so {', '.join(filled) or 'throughput'} must be null")
        return self


class LimitResult(Part):
    """One limit on one engine (or on a whole precision, when none of its engines could be checked)."""

    engine: str
    limit: str
    asked: float
    found: float | None = None
    held: bool | None = Field(None, description="null: could not be checked, see `reason`")
    reason: str | None = None

    @model_validator(mode="after")
    def _unchecked_says_why(self) -> LimitResult:
        if self.found is None and not self.reason:
            raise ValueError("nothing was found, so `reason` must say why")
        return self


class Epoch(Part):
    """One epoch of one training run."""

    epoch: int = Field(ge=0)
    loss: float | None = None
    val_top1_percent: Percent | None = None
    seconds: float | None = Field(None, ge=0)
    parts: dict[str, float] = Field({}, description="means of the loss's terms, unweighted, and of their `_weight`s")


class TrainingRun(Part):
    """Training, fine-tuning, distillation or QAT: one line per epoch."""

    title: str
    epochs: list[Epoch]
    taught: Taught | None = Field(None, description="null: learned from the labels alone")


class Report(Part):
    """The whole result of one build; `load_report` reads it back."""

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: dict[str, Any]
    environment: EnvironmentFacts
    data: DataFacts
    stages: list[StageResult]
    engines: list[EngineResult]
    limits: list[LimitResult] = []
    training: list[TrainingRun] = []
    fidelity: Fidelity | None = Field(None, description="null: the recipe has no measure.fidelity")
    pruning: Pruning | None = Field(None, description="null: the recipe has no prune section")
    quantization: Quantization | None = Field(None, description="null: of an earlier version")
    own_file: list[str] = Field([], description="what was changed in the user's own ONNX file, or is odd about it")
    unpruned: list[EngineResult] = Field([], description="FP32 engines of the network before pruning, as references")
    devices: list[DeviceResult] = Field([], description="of `build --on`")

    def to_json(self) -> str:
        """report.json as text, indented by two, a newline at the end; the same report gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_report(path: Path) -> Report:
    """Read report.json. Raises RecipeError naming the file and every field that is not as the contract says."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); expected a build's report.json") from None
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise RecipeError(f"{path}: not JSON ({error}); the file is damaged, build again to write it anew") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RecipeError(f"{path}: schema_version: found {version!r}, expected {SCHEMA_VERSION}; "
                          "build again with this version, or read it with the one that wrote it")
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
                          for e in error.errors())
        raise RecipeError(f"{path}: {wrong}") from None

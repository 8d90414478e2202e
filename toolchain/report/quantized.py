"""The `quantization` part of report.json, which is quantized_facts.json as its stage wrote it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from toolchain.report.part import Bytes, NotNegative, Part, Percent

Count = Annotated[int, Field(ge=0)]


class Stored(Part):
    """What one engine's ONNX file stores, in bytes; the parts add up to the payload."""

    name: str
    codes_bytes: Bytes = Field(description="integers and FP8 values of weights")
    scales_bytes: Bytes
    zero_points_bytes: Bytes
    floats_bytes: Bytes = Field(description="weights and biases that are floats")
    other_bytes: Bytes = Field(description="shapes and the like")
    coded_weights: Count = Field(description="how many numbers the codes are")
    payload_bytes: Bytes
    packed_bytes: Bytes | None = Field(
        None, description="GPFQ's codes at their own bits, with scales and float tensors; null: stored at their bits")


class RepairStep(Part):
    """One method of repair, and what it gained on val; null where nothing was judged."""

    precision: str
    method: str
    seconds: NotNegative
    top1_before: Percent | None = None
    top1_after: Percent | None = None
    kept: bool
    did: str


class Judged(Part):
    """How `repair: auto` ended for one precision; top-1 in percent of val."""

    precision: str
    limit: NotNegative = Field(description="points below the float file that are allowed")
    limit_field: str | None = Field(None, description="the recipe's field that says so; null: the default")
    float_top1: Percent
    before: Percent = Field(description="quantized without any repair")
    after: Percent = Field(description="quantized with the methods that were kept")
    tried: Count = Field(description="how many methods")


class GpfqLayer(Part):
    """One layer that GPFQ quantized; errors are |XW - X~Q| / |XW| on its calibration images."""

    name: str
    parameters: Count
    bits: int
    levels: int
    coding: str
    relative_error: NotNegative
    nearest_relative_error: NotNegative = Field(description="of the nearest codes on the same grid")
    packed_bytes: Bytes


class Gpfq(Part):
    """gpfq.json."""

    bits: int
    alphabet: str
    precisions: list[str] = Field(description="engines that hold these codes")
    layers: list[GpfqLayer]
    parameters: Count
    float_bytes: Bytes
    packed_bytes: Bytes
    val_top1_percent: Percent | None = Field(
        None, description="of the network with these weights and float activations, on val")
    float_val_top1_percent: Percent | None = Field(None, description="of the float network that it was made from")
    val_images: Count | None = Field(None, description="how many of val were judged")


class MixedLayer(Part):
    """One layer of a mixed engine. loss_nats: KL with this layer alone quantized so; null where nothing was scanned."""

    name: str
    precision: str
    loss_nats: float | None = None
    bytes: Bytes
    parameters: Count
    fixed: bool = Field(False, description="the recipe named it")


class MixedBudget(Part):
    """What a mixed engine had to hold. limit: bytes, or ms beside the FP32 engine as timed for the accepted check."""

    kind: Literal["bytes", "latency"]
    asked: NotNegative = Field(description="as the recipe has it")
    limit: NotNegative


class MixedCheck(Part):
    """One assignment that was rebuilt, in one form of `joins`. share: of the FP32 engine's p50."""

    assignment: dict[str, str] = {}
    joins: str
    accepted: bool
    loss_nats: float | None = None
    kl_nats: float | None = None
    weight_bytes: Bytes | None = None
    latency_ms: NotNegative | None = None
    fp32_latency_ms: NotNegative | None = None
    share: NotNegative | None = None


class Mixed(Part):
    """assignment.json of one mixed engine: a precision for each layer, what was predicted of it, and measured."""

    engine: str
    policy: str
    joins: str = Field(description="residual Adds, Concats and pools: quantized or float")
    budget: MixedBudget | None = Field(None, description="null: of a policy without one")
    checks: list[MixedCheck] = Field([], description="rebuilt and verified against the budget; one is accepted")
    layers: list[MixedLayer]
    predicted: dict[str, float | None] = {}
    measured: dict[str, float | None] = {}


class Quantization(Part):
    """How the network was quantized, and what its engines store."""

    method: str
    calibrator: str
    storage: list[Stored]
    repairs: list[RepairStep] = []
    judged: list[Judged] = Field([], description="of `repair: auto`, which may need to try nothing")
    gpfq: Gpfq | None = None
    mixed: list[Mixed] = []

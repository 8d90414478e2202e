"""The sections from the ONNX file to the verdict: export, engines, measure, limits."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, field_validator, model_validator

from toolchain.recipe.fidelity import Fidelity
from toolchain.recipe.precision import Precision
from toolchain.recipe.section import Section

RTX_SMS = (75, 80, 86, 89, 120, 121)

BatchSize = Annotated[int, Field(ge=1, le=4096)]


class Export(Section):
    """The clean float ONNX file that every engine starts from."""

    opset: int = Field(21, ge=21, le=25)
    tolerance: float = Field(1e-3, gt=0, description="largest logit difference to PyTorch / largest logit")


class Batch(Section):
    """Batch sizes of the engine's optimization profile."""

    min: BatchSize = 1
    opt: BatchSize = 1
    max: BatchSize = 64

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, found {self.min}, {self.opt}, {self.max}")
        return self


class OrtEngine(Section):
    """ONNX Runtime: an .onnx file with the target's rules applied."""

    runtime: Literal["onnxruntime"]
    precision: Precision
    target: Literal["cpu_x86", "cpu_arm", "cuda"] | None = Field(None, description="null: this machine's CPU")


class RtxEngine(Section):
    """TensorRT for RTX, built ahead of time for one or several SMs, with or without a GPU here."""

    runtime: Literal["tensorrt_rtx"]
    precision: Precision
    target: str | None = Field(None, description="sm86, or sm86+sm89; null: every SM that runs this precision")
    batch: Batch = Batch()

    @field_validator("target")
    @classmethod
    def _sms_are_known(cls, target: str | None) -> str | None:
        known = [f"sm{sm}" for sm in RTX_SMS]
        wrong = [part for part in (target or known[0]).split("+") if part not in known]
        parts = (target or "").split("+")
        if len(set(parts)) != len(parts):
            raise ValueError(f"expected each SM once, found {target}")
        if wrong:
            raise ValueError(f"TensorRT-RTX has no {', '.join(wrong)}; expected {', '.join(known)}, joined by +")
        return target


class TrtEngine(Section):
    """TensorRT 10.x or 11.x, built on and for the GPU of this machine."""

    runtime: Literal["tensorrt"]
    precision: Precision
    target: Literal["local_gpu"] = "local_gpu"
    batch: Batch = Batch()
    workspace_mb: int | None = Field(None, ge=1)


class OpenVinoEngine(Section):
    """OpenVINO on an x86 CPU."""

    runtime: Literal["openvino"]
    precision: Precision
    target: Literal["cpu_x86"] = "cpu_x86"


Engine = Annotated[Union[OrtEngine, RtxEngine, TrtEngine, OpenVinoEngine], Field(discriminator="runtime")]


class Measure(Section):
    """How engines are judged."""

    batch: BatchSize = Field(1, description="batch size of the latency figures")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: physical cores")
    warmup: int = Field(20, ge=1, description="untimed runs before the first round")
    rounds: int = Field(20, ge=2, le=100_000, description="each round times every engine once, in random order")
    runs_per_round: int = Field(20, ge=1, le=100_000, description="timed runs of one engine in one round")
    attempts: int = Field(2, ge=1, le=100, description="latency is measured again while it is inconclusive, up to so "
                                                       "many times in all; then it is reported as inconclusive")
    throughput_batches: tuple[BatchSize, ...] = (1, 8, 32)
    accuracy_batch: BatchSize = 64
    fidelity: Fidelity | None = Field(None, description="also compare the engines with the teacher")
    gradcam_images: int = Field(
        200, ge=0, description="of a pruned network: compare where it looks with where it looked before, on this many "
                               "test images; 0: do not")


class Holds(Section):
    """What an engine must hold; null: no limit."""

    top1: float | None = Field(None, ge=0, le=100, description="smallest top-1, percent")
    top1_drop: float | None = Field(None, ge=0, le=100, description="largest loss of top-1 against FP32, points")
    agreement: float | None = Field(None, ge=0, le=100, description="smallest share of equal answers to FP32, percent")
    speedup: float | None = Field(None, gt=0, description="smallest FP32 latency / engine latency, same runtime")
    latency_ms: float | None = Field(None, gt=0, description="largest p50 latency")
    weight_bytes: float | None = Field(None, gt=0, description="largest share of FP32's weight bytes")
    engine_bytes: int | None = Field(None, gt=0, description="largest engine file, bytes")
    realised: float | None = Field(
        None, ge=0, le=100, description="smallest share of multiply-adds that run in the precision asked for, percent")
    faster: bool | None = Field(
        None, description="true: faster than FP32, and than FP16 that computes in it, on the same runtime; fails when "
                          "the 95 % interval says it is not")


class Int8Holds(Holds):
    """The same for INT8, which a runtime may silently compute in float."""

    realised: float | None = Field(
        90, ge=0, le=100, description="smallest share of multiply-adds that run in the precision asked for, percent")


class Limits(Holds):
    """Limits for every measured engine except FP32; a precision's own section overrides them for it."""

    fp32: Holds = Holds()
    fp16: Holds = Holds()
    bf16: Holds = Holds()
    fp8: Holds = Holds()
    int8: Int8Holds = Int8Holds()
    int8_weight_only: Holds = Holds()
    int4: Holds = Holds()
    mixed: Holds = Holds()

"""The `quantize.mixed` section: how the engine of precision mixed gets one precision for each layer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, model_validator

from toolchain.recipe.section import Section

# of one layer. int8: weights and activations. int4, int8_weight_only: weights alone. fp16 on a CPU: storage
LayerPrecision = Literal["fp32", "fp16", "int8", "int8_weight_only", "int4"]
Offered = Literal["fp16", "int8", "int4"]
SHARE: dict[str, float] = {"fp16": 0.5, "int8": 0.25, "int4": 0.125}  # of FP32's bytes, codes alone

Joins = Annotated[Literal["quantized", "float"], Field(
    description="residual Adds, Concats and pools between INT8 layers: with Q/DQ as the target wants, or float")]
Layers = Annotated[dict[str, LayerPrecision], Field(
    description="precisions of single layers, by name as the report has them; they stand above the policy")]


class MixedScan(Section):
    """How much each layer loses when it alone is quantized; `toolchain sensitivity --of quantize`."""

    images: int | None = Field(1000, ge=1, description="of val; null: all of them")
    file: str | None = Field(None, description="a sensitivity.json, relative to the recipe; null: scanned in the build")


class Uniform(Section):
    """The same precision for all layers: int8 gives the file of the int8 engine."""

    policy: Literal["uniform"]
    precision: LayerPrecision = "int8"
    joins: Joins = "quantized"
    layers: Layers = {}


class Simple(Section):
    """The first and the last layer FP16, the others INT8."""

    policy: Literal["simple"]
    joins: Joins = "quantized"
    layers: Layers = {}


class Adaptive(Section):
    """Terciles of sensitivity (KL with this layer alone in INT4): high FP16, medium INT8, low INT4."""

    policy: Literal["adaptive"]
    scan: MixedScan = MixedScan()
    joins: Joins = "quantized"
    layers: Layers = {}


class Budget(Section):
    """The smallest predicted loss (sum of each layer's own KL) within a budget of bytes or of measured latency."""

    policy: Literal["budget"]
    bytes: float | None = Field(
        None, gt=0, description="of weights in the file: up to 1 a share of FP32's, above it a number of bytes")
    latency: float | None = Field(
        None, gt=0, le=1, description="instead of bytes: p50 of the rebuilt engine, share of the FP32 engine's")
    precisions: tuple[Offered, ...] = Field(("fp16", "int8", "int4"), min_length=1, description="offered to each layer")
    checks: int = Field(4, ge=1, le=100, description="rebuild and verify at most this many times")
    scan: MixedScan = MixedScan()
    joins: Literal["quantized", "float", "auto"] = Field(
        "quantized", description="as elsewhere; auto: whichever of the two, both rebuilt, loses less within the budget")
    layers: Layers = {}

    @model_validator(mode="after")
    def _one_budget(self) -> Budget:
        if (self.bytes is None) == (self.latency is None):
            raise ValueError("give one of bytes and latency, found "
                             f"{'both' if self.bytes else 'neither'}; as in bytes: 0.25, or latency: 0.6")
        if len(set(self.precisions)) != len(self.precisions):
            raise ValueError(f"precisions: expected each once, found {', '.join(self.precisions)}")
        smallest = min(self.precisions, key=SHARE.__getitem__)
        if self.bytes is not None and self.bytes <= SHARE[smallest]:
            raise ValueError(f"bytes: found {self.bytes:g}, but no weights take that little: {smallest} alone is "
                             f"{SHARE[smallest]:g} of FP32's, before scales; use a larger budget"
                             f"{', or offer int4' * (smallest != 'int4')}")
        return self


def policy_name(value: Any) -> Any:
    """`mixed: simple` is short for `mixed: {policy: simple}`."""
    return {"policy": value} if isinstance(value, str) else value


Mixed = Annotated[Union[Uniform, Simple, Adaptive, Budget], Field(discriminator="policy"), BeforeValidator(policy_name)]

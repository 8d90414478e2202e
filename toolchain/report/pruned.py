"""The `pruning` part of report.json, which is pruned_facts.json as its stage wrote it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from toolchain.report.fidelity import GradCam
from toolchain.report.part import NotNegative, Part, Percent, Positive, Speedup

BINS = 64

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Network(Part):
    """What there is of a network: once before pruning, once after."""

    parameters: Count
    macs: Count = Field(description="multiply-accumulates of convolutions and linear layers, per image")
    weights: Count = Field(description="of convolutions and linear layers, without biases")
    zeros: Count = Field(description="of `weights`")
    val_top1_percent: Percent | None = None


class Histogram(Part):
    """Weights that are not zero, counted in BINS bins of equal width over [-limit, limit]."""

    limit: NotNegative = Field(description="the largest magnitude before and after")
    before: list[Count] = Field(min_length=BINS, max_length=BINS)
    after: list[Count] = Field(min_length=BINS, max_length=BINS)


class LayerAfter(Part):
    """One layer of the pruned network: the one that was there before, or one of the factors it became."""

    name: str
    shape: list[Count] = Field(min_length=2, description="of its weight")


class PrunedLayer(Part):
    """One convolution or linear layer before and after; of a factorized one `after` names its factors."""

    name: str
    shape: list[Count] = Field(min_length=2, description="of its weight before: (K, C, R, S) or (K, C)")
    after: list[LayerAfter] = Field(min_length=1)
    weights: Count
    weights_after: Count
    zeros: Count
    zeros_after: Count
    macs: Count
    macs_after: Count
    histogram: Histogram | None = Field(None, description="null: factors have other weights than the layer had")

    @model_validator(mode="after")
    def _zeros_are_weights(self) -> PrunedLayer:
        if self.zeros > self.weights or self.zeros_after > self.weights_after:
            raise ValueError(f"{self.name}: more zeros than weights")
        return self


class Round(Part):
    """The network after one round of pruning and the training that follows it."""

    round: int = Field(ge=1)
    epochs: Count
    val_top1_percent: Percent
    removed: Share = Field(description="share of the unpruned network's parameters, or of its weights that are zero")
    parameters: Count | None = None
    macs: Count | None = None


class LatencyCheck(Part):
    """A width vector whose engine was built and timed on the way to a latency budget."""

    predicted_ms: Positive
    measured_ms: Positive
    unpruned_ms: Positive | None = Field(None, description="p50 of the unpruned network, timed in the same rounds")
    accepted: bool | None = None


class Decided(Part):
    """The engine whose latency decided what goes, and what it took before the training that followed."""

    engine: str
    batch: int = Field(ge=1)
    budget: Share | None = Field(None, description="share of the unpruned latency; null: there was none")
    unpruned_ms: Positive | None = None
    pruned_ms: Positive | None = None
    speedup: Speedup | None = None


class Factorizing(Part):
    """A layer that was to become a chain of smaller ones, and did where `accepted`."""

    name: str
    ranks: list[Count] = Field(min_length=1)
    speedup: Speedup | None = Field(None, description="of the chain over the layer, alone; null: no engine was asked")
    accepted: bool


class Pruning(Part):
    """What was removed, and what is left."""

    method: str
    unstructured: bool = Field(description="weights became zero; no shape changed")
    before: Network
    after: Network
    layers: list[PrunedLayer]
    rounds: list[Round] = []
    epochs: Count | None = Field(None, description="of training before the rounds and in them; null: unknown")
    rewound: bool = Field(False, description="each round trained from reset weights")
    checks: list[LatencyCheck] = []
    decided: Decided | None = Field(None, description="null: no engine was asked")
    factorizing: list[Factorizing] = []
    skipped: list[str] = Field([], description="layers whose shape forbids 2:4")
    gradcam: GradCam | None = Field(None, description="`student` is the pruned network, `teacher` the unpruned one")
    gradcam_images: Count = 0
    gradcam_reason: str | None = Field(None, description="why `gradcam` is null")

"""blame.json: the ranking, with the alignment of each layer, as data."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class LayerBlame(BaseModel):
    """One layer of the quantized file.

    kl_nats: loss-aware error, KL of the logits with this layer alone quantized. boundary_sqnr_db: of the tensor after
    the layer and what is fused with it, in the whole quantized network, errors of the layers before included.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="PyTorch module, or the ONNX node of a network without PyTorch names")
    op: str
    precision: str
    macs: int | None
    kl_nats: float
    fault: str | None = Field(description="what is odd about a scale; null: all fit")
    proven: bool = Field(description="fault: a scale is not the one that the build's ranges ask for; false: it does "
                                     "not fit the images seen, which may be meant")
    cause: str = Field(description="the larger of its errors: weights, or which tensor, rounded or clipped")
    weight_sqnr_db: float | None
    input_sqnr_db: float | None
    clipped_share: float | None = Field(description="of the input's error, made by values beyond the codes")
    boundary: str = Field(description="name of the tensor at the fusion boundary, in both ONNX files")
    boundary_sqnr_db: float | None
    weight_times: float = Field(description="dequantized weights over float ones, least squares; 1 where scales fit")
    nodes: list[str] = Field(description="of the float ONNX file")
    quantized_nodes: list[str]
    engine_layers: list[str] = []


class Verified(BaseModel):
    """A proposal tried on val: before and after, against float."""

    model_config = ConfigDict(extra="forbid")

    images: int
    float_top1_percent: float
    top1_percent: float
    top1_after_percent: float
    kl_nats: float
    kl_after_nats: float


class Proposal(BaseModel):
    """One edit of the recipe. field, value: as YAML has them."""

    model_config = ConfigDict(extra="forbid")

    field: tuple[str, ...]
    value: Any
    why: str
    verified: Verified | None = None


class Blame(BaseModel):
    """The ranking of one engine, the worst layer first."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    run: str = ""
    engine: str = ""
    file: str = ""
    reference: str = ""
    images: int
    kl_nats: float = Field(description="KL(float || quantized) of the whole file, mean over the images")
    agreement_percent: float
    float_layers: list[str] = Field(description="layers that the file keeps float")
    layers: list[LayerBlame]
    proposal: Proposal | None = None
    told: str = ""

    def to_json(self) -> str:
        """The same ranking gives the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

"""sensitivity.json: what a scan found, as a contract with a schema version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolchain.errors import RecipeError
from toolchain.files import write_text

Kind = Literal["weights", "channels", "quantize"]
KINDS: tuple[Kind, ...] = ("weights", "channels", "quantize")
PRECISIONS = ("int8", "int4")  # of the one layer that is quantized: W8A8, and INT4 weights alone
Curve = tuple[tuple[float, float], ...]  # ((ratio, drop in points), ...), ratios rising


class Part(BaseModel):
    """Frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Point(Part):
    """One layer at one setting, the others untouched.

    ratio: share of its weights or channels that is gone. precision: instead, what it computes in. drop: baseline's
    top-1 minus this one, in points. kl_nats: mean KL(baseline || this) over the images.
    """

    ratio: float | None = Field(None, gt=0, lt=1)
    precision: Literal["int8", "int4"] | None = None
    top1_percent: float
    drop: float
    kl_nats: float

    @property
    def setting(self) -> float | str:
        """The ratio, or the precision."""
        return self.ratio if self.ratio is not None else str(self.precision)


class LayerScan(Part):
    """One layer, or one group of channels by its first layer's name.

    parameters: weights, without biases; macs: multiply-accumulates per image (null: unknown); of a group those of all
    layers whose outputs shrink with it.
    """

    name: str
    parameters: int
    macs: int | None = None
    points: list[Point] = Field(min_length=1)


class Baseline(Part):
    """The network as it was."""

    top1_percent: float


class Sensitivity(Part):
    """A scan of one network on `images` images of val; layers in order of definition, points as they were asked for.

    removable: of channels, the largest share of all parameters that prune.method: greedy can remove at its default cap.
    """

    schema_version: Literal[1] = 1
    kind: Kind
    images: int
    baseline: Baseline
    removable: float | None = Field(None, ge=0, le=1)
    layers: list[LayerScan] = Field(min_length=1)

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Sensitivity:
        for layer in self.layers:
            for point in layer.points:
                if (point.precision is not None) != (self.kind == "quantize") or (
                        point.ratio is None) != (self.kind == "quantize"):
                    raise ValueError(f"layer {layer.name}: kind {self.kind} wants points with a "
                                     f"{'precision' if self.kind == 'quantize' else 'ratio'} alone")
            ratios = [point.ratio for point in layer.points if point.ratio is not None]
            if any(later <= earlier for earlier, later in zip(ratios, ratios[1:], strict=False)):
                raise ValueError(f"layer {layer.name}: expected rising ratios, found {ratios}")
        return self

    def curves(self) -> dict[str, Curve]:
        """Layer -> drop over ratio, for methods that choose amounts by it."""
        return {layer.name: tuple((point.ratio, point.drop) for point in layer.points if point.ratio is not None)
                for layer in self.layers}


def write_sensitivity(path: Path, found: Sensitivity) -> None:
    """Write `found` whole or not at all."""
    write_text(path, json.dumps(found.model_dump(exclude_none=True), indent=1) + "\n")


def read_sensitivity(path: Path, kind: Kind) -> Sensitivity:
    """A scan of `kind` that `write_sensitivity` wrote. Raises RecipeError naming the file and the field."""
    remedy = f"expected what `toolchain sensitivity RECIPE --of {kind}` writes; scan again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as a sensitivity scan ({error}); {remedy}") from None
    if isinstance(content, dict) and content.get("kind") in KINDS and content["kind"] != kind:
        raise RecipeError(f"{path}: kind: found a scan of {content['kind']}, expected one of {kind}; {remedy}")
    try:
        return Sensitivity.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "file"
        raise RecipeError(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}; {remedy}") from None

"""The `repair` field of post-training quantization: which methods win back accuracy."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from toolchain.errors import nearest
from toolchain.recipe.section import Section, method_name


class CrossLayerEqualization(Section):
    """Neighbouring layers share the range of each channel between them (ReLU networks); needs no data."""

    method: Literal["cross_layer_equalization"]
    sweeps: int = Field(20, ge=1, description="passes over all pairs; ends earlier when nothing moves")


class BiasCorrection(Section):
    """Each bias takes back the mean shift that rounding the weights causes."""

    method: Literal["bias_correction"]


class SmoothQuant(Section):
    """Outliers move from activations to weights; only where activations are quantized."""

    method: Literal["smoothquant"]
    alpha: float = Field(0.5, ge=0, le=1, description="1: all the difficulty to the weights; 0: to the activations")


class AdaRound(Section):
    """Learns for each weight whether to round up or down, layer by layer."""

    method: Literal["adaround"]
    iterations: int = Field(500, ge=0, description="steps of each layer; 0: only flips that lower its error")
    images: int = Field(256, ge=1, description="calibration images whose activations are sampled")
    rows: int = Field(8192, ge=1, description="sampled input patches of each layer; fewer where they are long")


class AutoRepair(Section):
    """All of them in order of cost, only until the accuracy limit holds on val; each is kept only if it helps."""

    method: Literal["auto"]
    images: int = Field(2000, ge=1, description="val images that judge, at most")


# what `auto` tries, one after another
IN_ORDER_OF_COST = (
    CrossLayerEqualization(method="cross_layer_equalization"), BiasCorrection(method="bias_correction"),
    SmoothQuant(method="smoothquant"), AdaRound(method="adaround"),
)
METHODS = tuple(cfg.method for cfg in IN_ORDER_OF_COST)
FOR_ACTIVATIONS = ("smoothquant",)  # nothing to gain where activations stay float

Method = Annotated[
    Union[CrossLayerEqualization, BiasCorrection, SmoothQuant, AdaRound],
    Field(discriminator="method"), BeforeValidator(method_name)]


def _each_once(methods: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [cfg.method for cfg in methods]
    if not names:
        raise ValueError("the list is empty; name a method, write auto, or leave repair out")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands in the list twice; remove one")
    return methods


def _written_out(value: Any) -> Any:
    """`auto` is short for {method: auto}, one method for a list of one. Refuses other names, as `auto` is one too."""
    if isinstance(value, str):
        value = {"method": value}
    if isinstance(value, dict) and value.get("method") != "auto":
        name = value.get("method")
        if name is not None and name not in METHODS:
            raise ValueError(f"method: found {name!r}, expected auto, {', '.join(METHODS)}"
                             f"{nearest(name, ['auto', *METHODS])}")
        return [value]
    if isinstance(value, (list, tuple)) and any(entry in ("auto", {"method": "auto"}) for entry in value):
        raise ValueError("auto chooses among all methods, so it stands alone: write repair: auto, or a list of "
                         f"{', '.join(METHODS)}")
    return value


def _form(value: Any) -> str:
    return "auto" if isinstance(value, (dict, AutoRepair)) else "list"


Methods = Annotated[tuple[Method, ...], AfterValidator(_each_once)]
Repair = Annotated[
    Union[Annotated[AutoRepair, Tag("auto")], Annotated[Methods, Tag("list")]],
    Discriminator(_form), BeforeValidator(_written_out)]

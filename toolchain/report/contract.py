"""The realised-precision contract in a report: what an engine was asked for, what it runs, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from toolchain.report.part import NotNegative, Part

if TYPE_CHECKING:
    from toolchain.report.schema import EngineResult

Verdict = Literal["kept", "broken", "undecidable"]
TITLES = ("Engine", "Layer", "Asked", "Runs in", "Verdict", "Why")
INTRO = ("What the runtime makes of each layer, against what the engine was asked for. Broken: it runs in another "
         "precision, or wrongly. Undecidable: the runtime does not tell here, which is not the same as kept.")
SHOWN = 12  # rows of a table that stand open; the rest is folded
EQUAL = 1.02  # an interval of the speed-up that ends here or below shows an engine that is no faster


class LayerVerdict(Part):
    """A layer that does not run as asked, or of which that cannot be told."""

    name: str
    op: str
    asked: str
    realised: str | None = None
    macs: int | None = None
    verdict: Verdict
    why: str = ""
    arithmetic: str | None = Field(None, description="what its multiply-adds run in, where that is told")


class Numbers(Part):
    """The engine's logits on the probe images: |engine - other| / |other|, null where they are not finite."""

    to_file: NotNegative | None = Field(None, description="against its own ONNX file, run node by node")
    to_source: NotNegative | None = Field(None, description="against the float network")
    verdict: Verdict
    why: str = ""


class Contract(Part):
    """Shares of multiply-adds, 0 to 1. layers: those that did not keep it; `contract.json` has them all."""

    share: dict[str, float] = Field({}, description=(
        "precision -> share of it, as far as it can be told; int4, int8_weight_only and, where the runtime lacks such "
        "kernels, fp16 and bf16 are forms of storage: `arithmetic` tells what is computed in"))
    arithmetic: dict[str, float] = Field({}, description="int8, fp32, … -> share that is computed in it")
    kept_share: float = Field(ge=0, le=1)
    undecidable_share: float = Field(0.0, ge=0, le=1)
    layers: list[LayerVerdict] = []
    numbers: Numbers | None = Field(None, description="null: the engine cannot run here")


class Row(NamedTuple):
    """One reason, with the layers of an engine that it holds for."""

    engine: str
    layer: str
    asked: str
    realised: str
    verdict: str
    why: str


def percent(share: float) -> str:
    """'98.1 %'; never rounded up to a whole that it is not."""
    shown = f"{100 * share:.1f}" if 0.0005 <= share < 0.9995 else f"{100 * share:.0f}" if share in (0, 1) else (
        "> 99.9" if share > 0.5 else "< 0.1")
    return f"{shown} %"


def realised(engine: EngineResult) -> tuple[str, str]:
    """(share of multiply-adds as asked, what else is to say): ('98.1 %', '1 broken'); ('–', '') without a contract."""
    found = engine.contract
    if found is None:
        return "–", ""
    if found.numbers and found.numbers.verdict == "broken":
        return "wrong numbers", ""
    if found.undecidable_share > 0.9995:
        return "hidden", ""
    rest = [f"{percent(found.undecidable_share)} hidden"] if found.undecidable_share else []
    broken = sum(layer.verdict == "broken" for layer in found.layers)
    return percent(found.kept_share), ", ".join([*rest, *([f"{broken} broken"] if broken else [])])


def rows(engines: Sequence[EngineResult]) -> list[Row]:
    """What did not keep the contract, broken before undecidable; layers that share a reason share a row."""
    found: list[Row] = []
    for engine in engines:
        contract = engine.contract
        if contract is None:
            continue
        if contract.numbers and contract.numbers.verdict != "kept":
            found.append(Row(engine.name, "all", engine.precision, "", contract.numbers.verdict, contract.numbers.why))
        alike: dict[tuple[str, str, str, str], list[str]] = {}
        for layer in contract.layers:
            key = (layer.asked, _runs_in(layer), layer.verdict, layer.why)
            alike.setdefault(key, []).append(layer.name)
        for (asked, runs, verdict, why), names in alike.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            found.append(Row(engine.name, names[0] + more, asked, runs, verdict, why))
    return sorted(found, key=lambda row: row.verdict != "broken")


def _runs_in(layer: LayerVerdict) -> str:
    """'int8'; 'int4 weights, fp32 arithmetic' of a form of storage."""
    if layer.realised is None or layer.arithmetic in (None, layer.realised):
        return layer.realised or "cannot be told"
    weights = layer.realised.removesuffix("_weight_only")
    return f"{weights} weights, {layer.arithmetic} arithmetic"


def slow(engines: Sequence[EngineResult]) -> list[str]:
    """A sentence for each INT8 engine that its speed-up's interval shows to be no faster than FP32."""
    return [f"{e.name} is not faster than {e.latency_reference or 'FP32'}: {e.speedup_vs_fp32.value:.2f}× (95 %: "
            f"{e.speedup_vs_fp32.low:.2f}–{e.speedup_vs_fp32.high:.2f})."
            for e in engines if e.precision == "int8" and e.speedup_vs_fp32 and e.speedup_vs_fp32.low
            and e.speedup_vs_fp32.high and e.speedup_vs_fp32.high <= EQUAL]

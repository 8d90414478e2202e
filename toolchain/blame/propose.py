"""What to write into the recipe: the fewest layers that stay float, or the one knob that explains most of the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.blame.file import Blame, LayerBlame, Proposal

MOST_LAYERS = 3
SHARE = 0.5  # of the layers' summed cost that a proposal has to answer for
KEEPERS = {"int8": "int8", "int8_weight_only": "int8", "fp8": "int8", "int4": "int4"}  # precision -> its section


def proposals(found: Blame, precision: str, quantize: Mapping[str, Any]) -> list[Proposal]:
    """Edits worth trying, the cheapest at run time first; none where every image is answered as float answers it.

    precision: of the engine. quantize: the build's section, defaults written out.
    """
    sound = not any(layer.proven for layer in found.layers)
    if not found.layers or quantize.get("method") == "gpfq" or (sound and found.agreement_percent == 100):
        return []
    knob = _clipped(found.layers, precision, quantize) if sound else None
    layers = culprits(found.layers)
    kept = _mixed(layers, quantize) if precision == "mixed" else _kept(layers, precision, quantize)
    return [each for each in (knob, kept) if each is not None]


def culprits(layers: Sequence[LayerBlame]) -> list[LayerBlame]:
    """Layers with a scale proven wrong; without such the fewest that make half of the summed cost, at most three."""
    if faulty := [layer for layer in layers if layer.proven]:
        return faulty
    total, chosen = sum(layer.kl_nats for layer in layers), list[LayerBlame]()
    for layer in sorted(layers, key=lambda one: -one.kl_nats)[:MOST_LAYERS]:
        if sum(one.kl_nats for one in chosen) >= SHARE * total:
            break
        chosen.append(layer)
    return chosen


def _clipped(layers: Sequence[LayerBlame], precision: str, quantize: Mapping[str, Any]) -> Proposal | None:
    """Another calibrator, where the layers that lose most lose it to clipping."""
    total = sum(layer.kl_nats for layer in layers)
    clipped = sum(layer.kl_nats for layer in layers if layer.cause.endswith(" clipped"))
    used = (quantize.get("calibrator") or {}).get("method")
    if precision != "int8" or quantize.get("method") != "ptq" or used == "max" or clipped < SHARE * total or not total:
        return None
    return Proposal(field=("quantize", "calibrator"), value="max", why=(
        f"values beyond the codes make {100 * clipped / total:.0f} % of the layers' summed cost, so calibrator "
        f"{used} clips too much"))


def _kept(layers: Sequence[LayerBlame], precision: str, quantize: Mapping[str, Any]) -> Proposal:
    section = KEEPERS[precision]
    before = list((quantize.get(section) or {}).get("keep_float") or ())
    names = [layer.name for layer in layers if layer.name not in before]
    return Proposal(field=("quantize", section, "keep_float"), value=before + names, why=_why(layers))


def _mixed(layers: Sequence[LayerBlame], quantize: Mapping[str, Any]) -> Proposal:
    before = dict((quantize.get("mixed") or {}).get("layers") or {})
    return Proposal(field=("quantize", "mixed", "layers"), value=before | {layer.name: "fp32" for layer in layers},
                    why=_why(layers))


def _why(layers: Sequence[LayerBlame]) -> str:
    if layers[0].proven:
        return f"{layers[0].name}: {layers[0].fault}; building again should mend it, until then it can stay float"
    names = ", ".join(layer.name for layer in layers)
    return f"{names} cost{'s' * (len(layers) == 1)} most of what quantization costs"

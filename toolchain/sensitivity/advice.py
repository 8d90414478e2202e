"""What a scan is good for: a sentence, and lines for a recipe that builds with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolchain.sensitivity.file import PRECISIONS, LayerScan, Point, Sensitivity

SHARE = 0.7  # of weights or parameters, where the scan and the network allow it
FINE = 1000  # images: from here on one of them is at most 0.1 points
Advice = tuple[str, Sequence[str]]
OTHERWISE = "quantize.repair: auto, or for a network in PyTorch quantize.method: qat, can win some of it back"


def advice(found: Sensitivity, file: str) -> Advice:
    """What the scan is good for: a sentence, and lines for the recipe that read it from `file`; perhaps none."""
    return {"weights": _magnitude, "channels": _greedy, "quantize": _quantize}[found.kind](found, file)


def one_image(found: Sensitivity) -> str:
    """' (one image is 0.69 points)', where drops are that coarse, else nothing."""
    return f" (one image is {100 / found.images:.2f} points)" if found.images < FINE else ""


def _magnitude(found: Sensitivity, file: str) -> Advice:
    from toolchain.prune.amounts import limits_of  # its room loads torch, and a quantized scan needs none

    sizes = {layer.name: layer.parameters for layer in found.layers}
    covered = 100 * sum(limits_of(sizes, found.curves()).values()) // sum(sizes.values()) / 100
    if not covered:
        return "The scan covers less than 0.01 of the weights, too little to prune by: scan larger --ratios.", []
    return ("Let each layer give what costs the same accuracy" + _at_most(covered, "the scan covers") + ":",
            ["prune:", "  method: magnitude", f"  amount: {min(SHARE, covered):g}", "  scope: sensitivity",
             f"  scan: {{file: {file}}}"])


def _greedy(found: Sensitivity, file: str) -> Advice:
    most = SHARE if found.removable is None else math.floor(round(100 * found.removable, 9)) / 100
    if not most:
        return "Less than 0.01 of the parameters can go with channels: this network has next to none to remove.", []
    return ("Take channels from the least sensitive layers first" + _at_most(most, "prune.cap allows") + ":",
            ["prune:", "  method: greedy", f"  params: {min(SHARE, most):g}", f"  scan: {{file: {file}}}"])


def _at_most(share: float, why: str) -> str:
    return f" ({share:g} is the most that {why})" if share < SHARE else ""


def _quantize(found: Sensitivity, file: str) -> Advice:
    def loses(layer: LayerScan, precision: str | None = None) -> bool:
        return any(round(point.drop * found.images / 100) > 1 for point in layer.points
                   if precision in (None, point.precision))

    losing = sorted(filter(loses, found.layers), key=lambda layer: _worst(layer).drop, reverse=True)
    if not losing:
        return "No layer alone loses more than one image, so the scan singles none out to keep float.", []
    told = f"Alone, {_and([_told(layer) for layer in losing[:2]])} {_lose(losing[:2])} most."
    ends = [layer for layer in (*found.layers[:1], *found.layers[1:][-1:]) if loses(layer)]
    if not ends:
        return (f"{told} The first and the last layer lose one image at most, so keeping them float would not help, "
                f"but {OTHERWISE}.", [])
    rest = [layer.name for layer in losing[:2] if layer not in ends]
    others = f" ({_and(rest)} would stay quantized: {OTHERWISE})" if rest else ""
    lines = [f"  {precision}: {{first_last: float}}" for precision in PRECISIONS
             if any(loses(layer, precision) for layer in ends)]
    return (f"{told} Keep the first and the last layer float, as {_and([layer.name for layer in ends])} {_lose(ends)} "
            f"more than one image{others}:", ["quantize:", "  method: ptq", *lines])


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _lose(layers: Sequence[LayerScan]) -> str:
    return "lose" if len(layers) > 1 else "loses"


def _worst(layer: LayerScan) -> Point:
    return max(layer.points, key=lambda point: point.drop)


def _told(layer: LayerScan) -> str:
    worst = _worst(layer)
    return f"{layer.name} ({worst.drop:.2f} points in {str(worst.precision).upper()})"

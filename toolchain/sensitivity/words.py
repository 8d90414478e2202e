"""What a scan says, as text: the console, sensitivity.md and sensitivity.html show the same cells."""

from __future__ import annotations

from toolchain.report.taught import nats
from toolchain.report.words import signed
from toolchain.sensitivity.advice import one_image
from toolchain.sensitivity.file import Kind, LayerScan, Point, Sensitivity

TITLES: dict[Kind, str] = {"weights": "Single weights to zero", "channels": "Channels removed", "quantize": "Quantized"}
TOLD: dict[Kind, str] = {
    "weights": "The smallest weights of one layer are zero, all others as trained.",
    "channels": "The least salient channels of one group (named by its first layer) are removed with all that is tied "
                "to them.",
    "quantize": "One layer computes in INT8 (weights and its input) or stores INT4 weights, the rest is float, in ONNX "
                "Runtime.",
}
NOTES = (
    "Nothing was fine-tuned: after fine-tuning most of a drop is won back. What counts is the order of the layers.",
    "A drop is the baseline's top-1 minus this one's, in points; a negative one is a gain. Small print: "
    "KL(baseline ‖ harmed) in nats, the mean over the images, which tells layers apart where top-1 is too coarse.",
    "The images are a fixed draw from val, never from test.",
)
SHOWN = 5  # most and least sensitive layers on the console


def column(point: Point) -> str:
    """'50 %', 'INT8'."""
    return point.precision.upper() if point.precision else f"{100 * float(point.ratio or 0):.10g} %"


def columns(found: Sensitivity) -> list[str]:
    """One per setting."""
    return [column(point) for point in found.layers[0].points]


def cell(point: Point) -> tuple[str, str]:
    """('+1.25', '0.0312'): the drop in points, and the divergence in nats."""
    return signed(point.drop), nats(point.kl_nats)


def headline(found: Sensitivity) -> str:
    """'8 groups on 179 images of val (one image is 0.56 points); baseline 97.21 % top-1'."""
    what = "group" if found.kind == "channels" else "layer"
    return (f"{len(found.layers)} {what}{'s' * (len(found.layers) > 1)} on {found.images:,} images of val"
            f"{one_image(found)}; baseline {found.baseline.top1_percent:.2f} % top-1")


def mean_drop(layer: LayerScan) -> tuple[float, float]:
    """Over its settings: the drop in points, then the divergence, which decides between equal drops."""
    points = layer.points
    return sum(p.drop for p in points) / len(points), sum(p.kl_nats for p in points) / len(points)


def ranked(found: Sensitivity) -> list[LayerScan]:
    """The most sensitive layer first: by its drop, and by its divergence where drops are next to nothing, as quantized.
    """
    if found.kind == "quantize":
        return sorted(found.layers, key=lambda layer: mean_drop(layer)[::-1], reverse=True)
    return sorted(found.layers, key=mean_drop, reverse=True)


def heat(point: Point, found: Sensitivity) -> int:
    """The drop as a share of the scan's largest one, 0 to 100."""
    largest = max(p.drop for layer in found.layers for p in layer.points)
    return round(100 * max(0.0, point.drop) / largest) if largest > 0 else 0

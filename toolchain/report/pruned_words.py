"""What pruning changed, in words: the rows and sentences that report.md, report.html and the console share.

Nothing here knows Markdown or HTML: names stay as they are, and whoever prints them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from toolchain.report.part import Speedup
from toolchain.report.pruned import PrunedLayer, Pruning
from toolchain.report.pruned_choice import left_alone, training
from toolchain.report.schema import EngineResult, Report, Sparse
from toolchain.report.words import (
    NOTHING,
    milliseconds,
    percent,
    runtime_name,
    signed,
    size,
    speedup_interval,
    times,
)

CHANGE_TITLES = ("", "Unpruned", "Pruned", "Change")
ENGINE_TITLES = ("Engine", "Speed-up", "Top-1 change, points", "Weights", "Engine file", "Deflated")
PACKED_TITLES = ("Engine", "Weights", "Bitmap", "2:4 packed", "Sparse tactics")
LAYER_TITLES = ("Layer", "Width", "Weights", "Not zero %", "MACs")
MAP_TITLES = ("Grad-CAM maps", "Pruned", "Random network", "Unpruned", "Verdict")
UNSTRUCTURED = ("The zeros are computed with like any other weight, so no engine is expected to be faster for them; "
                "they pay off where a file is compressed.")
TWO_OF_FOUR = ("Sparse tensor cores (SM80 and later) can skip the zeros; every other engine computes with them like "
               "with any other weight.")
PACKED = ("Bitmap: one bit for each weight that says whether it is zero, and the others one after the other. 2:4 "
          "packed: half of the weights of each layer that has the pattern, and two bits for the place of each. Biases, "
          "scales and zero points stay as they are. What that would take: no engine here reads such files.")


class ChangeRow(NamedTuple):
    """A figure of the network before and after. where: of which engine, "" of none. tone: good, bad or plain."""

    what: str
    where: str
    before: str
    after: str
    change: str
    tone: str


class EngineRow(NamedTuple):
    """One engine beside the unpruned FP32 engine of its runtime; figures with their small print."""

    name: str
    speedup: str
    speedup_interval: str
    top1: str
    top1_interval: str
    weights: str
    engine_file: str
    deflated: str
    tone: str


class LayerRow(NamedTuple):
    """One layer. kept: share of its weights that is left and not zero, 0 to 1."""

    name: str
    width: str
    weights: str
    density: str
    macs: str
    kept: float


def count(value: float | None) -> str:
    """'432', '1.7 k', '9.23 M', '1.24 G': three digits."""
    if value is None:
        return NOTHING
    unit = ""
    for larger in ("k", "M", "G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if not unit:
        return f"{value:.0f}"
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def intro(found: Pruning) -> str:
    """What was done, after how much training it was judged, and what a pattern left alone."""
    rounds = f" in {len(found.rounds)} rounds" if len(found.rounds) > 1 else ""
    zeros = TWO_OF_FOUR if found.method == "sparse24" else UNSTRUCTURED if found.unstructured else ""
    judged = f"Its accuracy was measured {training(found)}." if training(found) else ""
    what = (f"Method {found.method}{rounds}: the network as it was trained, beside what pruning and the training after "
            "it made of it.")
    return " ".join(part for part in (what, judged, zeros, left_alone(found)) if part)


def reference(engine: EngineResult, report: Report) -> EngineResult | None:
    """The unpruned engine that this one is compared with; None where there is none."""
    return next((e for e in report.unpruned if e.name == engine.unpruned_reference), None)


def change_rows(report: Report) -> list[ChangeRow]:
    """Cost, storage and accuracy before and after; the engine figures are those of the first FP32 engine compared."""
    found = report.pruning
    if found is None:
        return []
    before, after = found.before, found.after
    rows = [_less("Parameters", before.parameters, after.parameters, count),
            _less("MACs per image", before.macs, after.macs, count),
            _less("Weights that are not zero", before.weights - before.zeros, after.weights - after.zeros, count)]
    own = next((e for e in report.engines if e.precision == "fp32" and reference(e, report)), None)
    old = reference(own, report) if own else None
    if own and old:
        where = f"FP32 on {runtime_name(own.runtime)}"
        rows += [_less(title, getattr(old, field), getattr(own, field), size, where)
                 for title, field in (("Weight bytes", "weight_bytes"), ("Engine file", "engine_bytes"),
                                      ("Deflated", "deflate_bytes"))]
        speed = _less("p50 ms", _p50(old), _p50(own), milliseconds, where)
        rows.append(speed._replace(tone=_tone(own.speedup_vs_unpruned)))
        rows.append(_points("Test top-1 %", old.top1_percent, own.top1_percent, where))
    return [*rows, _points("Val top-1 %", before.val_top1_percent, after.val_top1_percent)]


def engine_rows(report: Report) -> list[EngineRow]:
    """Every engine that was compared with an unpruned one."""
    return [_engine_row(engine, old) for engine in report.engines if (old := reference(engine, report))]


def layer_rows(found: Pruning) -> list[LayerRow]:
    """Widths (outputs), weights, density and MACs of every layer, before and after."""
    return [_layer_row(layer) for layer in found.layers]


def packed_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """(engine, weight bytes, bitmap, 2:4, what TensorRT does) of a network with single zeros; none of any other."""
    return [(e.name, size(e.weight_bytes), _share(e.bitmap_bytes, e.weight_bytes),
             _share(e.two_of_four_bytes, e.weight_bytes), _tactics(e.sparse)) for e in report.engines
            if e.bitmap_bytes is not None]


def _tactics(sparse: Sparse | None) -> str:
    if sparse is None:
        return "–"
    chosen = "TensorRT does not tell" if sparse.chosen is None else f"{sparse.chosen} run sparse"
    return f"{sparse.in_file} of {sparse.layers} layers are 2:4; {chosen}"


def gradcam_intro(found: Pruning) -> str:
    """Between what the maps are compared, or why they are not."""
    maps = found.gradcam
    if maps is None:
        return f"No Grad-CAM maps: {found.gradcam_reason or 'not asked for'}."
    return (f"Where the pruned network looks for the class ({maps.student_layer}), beside where it looked before "
            f"({maps.teacher_layer}), on {found.gradcam_images:,} test images and {maps.grid[0]} × {maps.grid[1]} "
            "positions. A cosine is worth what it is above the random network's, which has the pruned network's "
            "shape.")


def removed_points(found: Pruning) -> list[tuple[float, float, str]]:
    """(percent removed, val top-1 %, what it is) of the unpruned network and of every round that is known."""
    start = [] if found.before.val_top1_percent is None else [(0.0, found.before.val_top1_percent, "unpruned")]
    return [*start, *((100 * r.removed, r.val_top1_percent, f"round {r.round}") for r in found.rounds)]


def removed_title(found: Pruning) -> str:
    """What the share removed counts."""
    return "weights that are zero, %" if found.unstructured else "parameters removed, %"


def summary(report: Report) -> str:
    """One or two sentences for the console and the head of the page; "" where nothing was pruned."""
    found = report.pruning
    if found is None:
        return ""
    before, after = found.before, found.after
    if found.unstructured:
        what = f"{_part(after.zeros, after.weights)} of the weights are zero"
    else:
        what = (f"{_fewer(before.parameters, after.parameters)} parameters ({count(before.parameters)} to "
                f"{count(after.parameters)}), {_fewer(before.macs, after.macs)} MACs")
    told = [_told(e) for e in _shown(report)]
    judged = f", {training(found)}" if training(found) else ""
    against = f" Against the unpruned FP32 engine{judged}: {'; '.join(told)}." if told else ""
    return f"Pruned ({found.method}): {what}.{against}"


def _shown(report: Report) -> list[EngineResult]:
    """The first FP32 engine that was compared, and the fastest of all if that is another."""
    compared = [e for e in report.engines if e.speedup_vs_unpruned]
    first = [e for e in compared if e.precision == "fp32"][:1]
    best = max(compared, key=lambda e: e.speedup_vs_unpruned.value if e.speedup_vs_unpruned else 0.0, default=None)
    return [*first, *([best] if best and best not in first else [])]


def _told(engine: EngineResult) -> str:
    speedup, change = engine.speedup_vs_unpruned, engine.top1_change_vs_unpruned
    points = f", top-1 {signed(change.value)} points" if change else ""
    bounds = speedup_interval(speedup)
    same = speedup is not None and speedup.low is not None and speedup.high is not None and (
        speedup.low <= 1 <= speedup.high)
    speed = "no measurable difference" if same else f"{times(speedup.value if speedup else None)} as fast"
    return (f"{engine.precision.upper()} on {runtime_name(engine.runtime)} {speed}"
            f"{f' (95 %: {bounds})' if bounds else ''}{points}")


def _engine_row(engine: EngineResult, old: EngineResult) -> EngineRow:
    speedup, change = engine.speedup_vs_unpruned, engine.top1_change_vs_unpruned
    sizes = [_share(getattr(engine, key), getattr(old, key))
             for key in ("weight_bytes", "engine_bytes", "deflate_bytes")]
    ends = f"{signed(change.low)} to {signed(change.high)}" if (
        change and change.low is not None and change.high is not None) else ""
    return EngineRow(engine.name, times(speedup.value if speedup else None), speedup_interval(speedup),
                     signed(change.value) if change else NOTHING, ends, sizes[0], sizes[1], sizes[2], _tone(speedup))


def _tone(speedup: Speedup | None) -> str:
    """Only what the interval is sure of has a colour."""
    if speedup is None or speedup.low is None or speedup.high is None:
        return "plain"
    return "good" if speedup.low > 1 else "bad" if speedup.high < 1 else "plain"


def _layer_row(layer: PrunedLayer) -> LayerRow:
    alive = layer.weights_after - layer.zeros_after
    after = " · ".join(str(part.shape[0]) for part in layer.after)
    factorized = [part.name for part in layer.after] != [layer.name]
    ranks = ", ".join(str(part.shape[0]) for part in layer.after[:-1])
    width = f"{layer.shape[0]}, rank {ranks}" if factorized else _arrow(str(layer.shape[0]), after)
    density = NOTHING if not layer.weights_after else f"{100 * alive / layer.weights_after:.1f}"
    return LayerRow(layer.name, width, _arrow(count(layer.weights), count(layer.weights_after)), density,
                    _arrow(count(layer.macs), count(layer.macs_after)), alive / layer.weights if layer.weights else 0.0)


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _less(
    what: str, before: float | None, after: float | None, shown: Callable[..., str], where: str = ""
) -> ChangeRow:
    """A figure that is better when it is smaller."""
    if before is None or after is None or not before:
        return ChangeRow(what, where, shown(before), shown(after), NOTHING, "plain")
    change = 100 * (after / before - 1)
    text = "0 %" if abs(change) < 0.05 else f"{change:+.1f} %".replace("-", "−")
    return ChangeRow(what, where, shown(before), shown(after), text,
                     "plain" if text == "0 %" else "good" if change < 0 else "bad")


def _points(what: str, before: float | None, after: float | None, where: str = "") -> ChangeRow:
    known = before is not None and after is not None
    return ChangeRow(what, where, percent(before), percent(after),
                     f"{signed(after - before)} points" if known else NOTHING, "plain")  # type: ignore[operator]


def _share(own: int | None, whole: int | None) -> str:
    """'3.2 MB (0.34×)'."""
    return size(own) if own is None or not whole else f"{size(own)} ({own / whole:.2f}×)"


def _part(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else NOTHING


def _fewer(before: float, after: float) -> str:
    return f"{abs(100 * (1 - after / before)):.1f} % {'fewer' if after <= before else 'more'}" if before else NOTHING


def _p50(engine: EngineResult) -> float | None:
    return engine.latency_ms.p50 if engine.latency_ms else None

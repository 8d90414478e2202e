"""Numbers as words: the figures of a report as the table, report.md and report.html all print them.

A figure that was not measured is NOTHING, an en dash; units are decimal (1 MB = 1,000,000 bytes).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from toolchain.recipe.schema import PRECISIONS
from toolchain.report.limits import fp32_reference, fp32_weight_bytes, top1_drop, weight_share
from toolchain.report.part import Latency, Speedup
from toolchain.report.schema import EngineResult, Gap, Report, StageResult, Transfer

NOTHING = "–"
FAR_APART = 90.0  # percent: below this, equal top-1 figures do not mean equal networks
PER_ENGINE = re.compile(rf"_(?:unpruned\.)?(?:{'|'.join(PRECISIONS)})\..+$")
RUNTIME_NAMES = {"onnxruntime": "ONNX Runtime", "tensorrt_rtx": "TensorRT for RTX", "tensorrt": "TensorRT",
                 "openvino": "OpenVINO"}


class Tile(NamedTuple):
    """One headline figure. tone: good, bad or plain."""

    label: str
    value: str
    note: str
    tone: str = "plain"


class StageRow(NamedTuple):
    """One line of the stages: its time, "", "cached" or "3 cached", and its key where it is a single stage."""

    name: str
    seconds: float | None
    state: str
    key: str


def runtime_name(runtime: str) -> str:
    """The runtime as its makers write it."""
    return RUNTIME_NAMES.get(runtime, runtime)


def place(engine: EngineResult) -> str:
    """Where it runs, and whether it is the network before pruning: 'ONNX Runtime, unpruned'."""
    return runtime_name(engine.runtime) + ", unpruned" * engine.unpruned


def size(n_bytes: int | None) -> str:
    """39050000 -> '39.1 MB'."""
    if n_bytes is None:
        return NOTHING
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB" if value < 9.995 else f"{value:.1f} GB"


def milliseconds(value: float | None) -> str:
    """Three significant digits: '0.982', '12.3', '105'."""
    if value is None:
        return NOTHING
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def seconds(value: float | None) -> str:
    """'0.4 s', '12 s', '3 min 05 s', '1 h 02 min'."""
    if value is None:
        return NOTHING
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(value: float | None) -> str:
    """'98.61', or a dash."""
    return NOTHING if value is None else f"{value:.2f}"


def interval(pair: tuple[float, float] | None, digits: int = 1) -> str:
    """'96.8–99.4', or nothing at all."""
    return "" if pair is None else f"{pair[0]:.{digits}f}–{pair[1]:.{digits}f}"


def spread(figures: Latency | None) -> str:
    """The standard deviation, as many decimals as the p50 it stands beside: '± 0.04', or nothing at all."""
    if figures is None:
        return ""
    decimals = len(milliseconds(figures.p50).partition(".")[2])
    return f"± {figures.std:.{decimals}f}"


def copies(transfer: Transfer | None) -> str:
    """Copies to and from a GPU, which the latency does not include: '+ 0.021 copies'; nothing on a CPU."""
    return "" if transfer is None else f"+ {milliseconds(transfer.to_device + transfer.from_device)} copies"


def times(value: float | None) -> str:
    """'6.62×'; four digits would promise too much above ten."""
    return NOTHING if value is None else f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def speedup_interval(speedup: Speedup | None) -> str:
    """'6.41–6.80', or nothing at all."""
    if speedup is None or speedup.low is None or speedup.high is None:
        return ""
    return interval((speedup.low, speedup.high), 2)


def signed(value: float) -> str:
    """Points with their sign and a true minus: '−0.28', '+0.11', '0.00'."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def gap_words(gap: Gap | None) -> str:
    """How far the ONNX file is from the one it was made from."""
    if gap is None or gap.relative is None and gap.max_abs is None:
        return NOTHING
    value = gap.relative if gap.relative is not None else gap.max_abs
    return f"{value:.2g} {'relative' if gap.relative is not None else 'absolute'}"


def compute_words(engine: EngineResult) -> str:
    """What the engine computes in, where its backend could tell."""
    compute = engine.compute
    if isinstance(compute, dict):
        return ", ".join(f"{key}: {value}" for key, value in compute.items())
    return str(compute) if compute else NOTHING


def unmeasured(engine: EngineResult) -> str:
    """'not measured: no GPU'."""
    return f"not measured: {engine.reason}" if engine.built else str(engine.reason)


def deflated(engine: EngineResult) -> str:
    """'3.2 MB deflated', or nothing at all."""
    return "" if engine.deflate_bytes is None else f"{size(engine.deflate_bytes)} deflated"


def best_engine(report: Report) -> EngineResult | None:
    """The largest speed-up below FP32 of an engine that breaks no limit, or else of any; None when none was timed."""
    lossy = [e for e in report.engines if e.measured and e.precision != "fp32" and e.speedup_vs_fp32]
    wrong = {limit.engine for limit in report.limits if limit.held is False}
    sound = [e for e in lossy if e.name not in wrong and e.precision not in wrong]
    return max(sound or lossy, key=lambda e: e.speedup_vs_fp32.value if e.speedup_vs_fp32 else 0.0, default=None)


def _doubted(engine: EngineResult, report: Report) -> bool:
    """Whether its latency, or that of the FP32 engine it is divided into, is inconclusive."""
    return any(e.validity is not None and e.validity.verdict == "inconclusive" for e in report.engines
               if e.name in (engine.name, engine.latency_reference))


def _speed_words(speedup: Speedup, doubted: bool) -> str:
    """What the ratio shows; a headline must not state as a fact what was measured on a machine that was not quiet."""
    told = "inconclusive, measure again on a quiet machine"
    if _holds_one(speedup):
        return f"shows no difference in speed from FP32 ({told if doubted else f'95 %: {speedup_interval(speedup)}×'})"
    if speedup.value >= 1:
        return (f"seems {times(speedup.value)} as fast as FP32 ({told})" if doubted else
                f"is {times(speedup.value)} as fast as FP32")
    return (f"seems slower than FP32 ({times(speedup.value)} its speed; {told})" if doubted else
            f"is slower than FP32 ({times(speedup.value)} its speed)")


def _holds_one(speedup: Speedup) -> bool:
    return speedup.low is not None and speedup.high is not None and speedup.low <= 1 <= speedup.high


def _certainty(engine: EngineResult, reference: EngineResult) -> str:
    """What the points of top-1 are worth: the paired interval where there is one, else FP32's own interval."""
    change = engine.top1_change_vs_fp32
    if change is not None and change.low is not None and change.high is not None:
        return f", 95 %: {signed(change.low)} to {signed(change.high)}"
    own = reference.top1_interval
    inside = own is not None and engine.top1_percent is not None and own[0] <= engine.top1_percent <= own[1]
    return ", inside FP32's 95 % interval" if inside else ""


def _own_interval(engine: EngineResult) -> str:
    """' (95 %: 96.4–99.2)', or nothing at all."""
    return f" (95 %: {interval(engine.top1_interval)})" if engine.top1_interval else ""


def _accuracy_words(engine: EngineResult, report: Report) -> str:
    reference, drop = fp32_reference(engine, report.engines), top1_drop(engine, report.engines)
    if reference is None or drop is None:
        return f"top-1 {percent(engine.top1_percent)} %{_own_interval(engine)}"
    both = f"{percent(engine.top1_percent)} %{_own_interval(engine)} against {percent(reference.top1_percent)} %"
    agreement = engine.agreement_percent
    apart = ""
    if agreement is not None and agreement < FAR_APART:
        apart = f", but the same answer on only {percent(agreement)} % of images"
    return f"top-1 {both} ({signed(-drop)} points{_certainty(engine, reference)}){apart}"


def headline(report: Report) -> str:
    """The result in one sentence; says so plainly when nothing was measured."""
    engine = best_engine(report)
    if engine is None or engine.speedup_vs_fp32 is None:
        built = sum(e.built for e in report.engines)
        return f"{built} engine{'' if built == 1 else 's'} built; none below FP32 could be timed against FP32 here."
    share = weight_share(engine, report.engines)
    weights = f" with {share:.0%} of its weight bytes".replace("%", " %") if share is not None else ""
    return (f"{engine.precision.upper()} on {runtime_name(engine.runtime)} "
            f"{_speed_words(engine.speedup_vs_fp32, _doubted(engine, report))}{weights}: "
            f"{_accuracy_words(engine, report)}.")


def verdict(report: Report) -> Tile:
    """How many limits hold, as a headline figure."""
    held, wrong = (sum(r.held is state for r in report.limits) for state in (True, False))
    unchecked = len(report.limits) - held - wrong
    rest = ((wrong, "broken"), (unchecked, "not checked here"))
    note = ", ".join(f"{count} {what}" for count, what in rest if count)
    if not report.limits:
        return Tile("Limits", "none", "the recipe sets no limits")
    tone = "bad" if wrong else "good" if held else "plain"
    return Tile("Limits held", f"{held} of {held + wrong}", note or "every limit was checked", tone)


def tiles(report: Report) -> list[Tile]:
    """The headline figures: speed, size and accuracy of the best engine, then the limits."""
    engine = best_engine(report)
    if engine is None or engine.speedup_vs_fp32 is None:
        return [verdict(report)]
    speedup, bounds = engine.speedup_vs_fp32, speedup_interval(engine.speedup_vs_fp32)
    share, drop = weight_share(engine, report.engines), top1_drop(engine, report.engines)
    reference = fp32_reference(engine, report.engines)
    against = f"FP32's speed on {runtime_name(engine.runtime)}" + (f" (95 %: {bounds})" if bounds else "")
    doubted = _doubted(engine, report)
    tone = ("plain" if doubted or _holds_one(speedup) or speedup.value == 1 else
            "good" if speedup.value > 1 else "bad")
    shown = [Tile("Speed", times(speedup.value), against + "; inconclusive" * doubted, tone)]
    if share is not None:
        whole = fp32_weight_bytes(engine, report.engines)
        shown.append(Tile("Weights", times(share), f"{size(engine.weight_bytes)}, FP32 {size(whole)}",
                          "good" if share < 1 else "plain"))
    if drop is not None and reference is not None:
        note = f"points: {percent(engine.top1_percent)} % against FP32's {percent(reference.top1_percent)} %"
        change = engine.top1_change_vs_fp32
        if change is not None and change.low is not None and change.high is not None:
            note += f" (95 %: {signed(change.low)} to {signed(change.high)})"
        shown.append(Tile("Top-1 accuracy", signed(-drop), note))
    return [*shown, verdict(report)]


def stage_rows(report: Report) -> list[StageRow]:
    """The stages in order of first appearance; the per-engine ones ("engine_int8.onnxruntime.cpu_x86") as one row."""
    groups: dict[str, list[StageResult]] = {}
    for stage in report.stages:
        groups.setdefault(PER_ENGINE.sub("", stage.name), []).append(stage)
    rows = []
    for name, stages in groups.items():
        spent = [s.seconds for s in stages if s.seconds is not None]
        fresh = sum(not s.cached for s in stages)
        state = "" if fresh == len(stages) else "cached" if fresh == 0 else f"{len(stages) - fresh} cached"
        rows.append(StageRow(f"{name} × {len(stages)}" if len(stages) > 1 else stages[0].name,
                             sum(spent) if spent else None, state, stages[0].key[:12] if len(stages) == 1 else ""))
    return rows

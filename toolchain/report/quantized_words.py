"""How the network was quantized, in words: the rows and sentences that report.md and report.html share.

Nothing here knows Markdown or HTML: names stay as they are, and whoever prints them escapes them.
"""

from __future__ import annotations

from typing import NamedTuple

from toolchain.report.quantized import Mixed, Quantization
from toolchain.report.schema import Report
from toolchain.report.words import NOTHING, milliseconds, percent, seconds, signed, size

METHODS = {"ptq": "post-training quantization", "qat": "quantization-aware training", "gpfq": "GPFQ",
           "half_finetune": "half-precision fine-tuning"}
STORAGE_TITLES = ("Engine", "Codes", "Scales", "Zero points", "Floats", "Payload", "Bits a weight", "Packed", "File")
REPAIR_TITLES = ("Repair", "For", "Val top-1 before", "After", "Gain, points", "Kept", "Time", "What it did")
GPFQ_TITLES = ("Layer", "Weights", "Error %", "Nearest rounding %", "Packed", "Stored as")
MIXED_TITLES = ("Layer", "Precision", "Alone it loses, nats", "Stored", "Weights", "Chosen by")
STORAGE = ("Payload: all stored numbers of the ONNX file, that is codes, their scales and zero points, tensors that "
           "stay float, and shapes. Bits a weight: codes, scales and zero points over the number of coded weights. "
           "Packed: what GPFQ's codes take at their own number of bits, with scales and float tensors, where the "
           "file holds them in wider integers. File: what ships.")
GPFQ = ("Error: of the layer's outputs on the calibration images, relative to them, |XW − X̃Q| / |XW|, with what the "
        "layers before it left of its inputs; beside it that of rounding to the nearest code of the same grid.")


class RepairRow(NamedTuple):
    """One method of repair. tone: good, bad or plain."""

    method: str
    precision: str
    before: str
    after: str
    gain: str
    kept: str
    seconds: str
    did: str
    tone: str


def intro(found: Quantization) -> str:
    """The method in one sentence: 'Post-training quantization, ranges by the entropy calibrator.'"""
    method = METHODS.get(found.method, found.method)
    told = f"{method[0].upper()}{method[1:]}, activation ranges by the {found.calibrator} calibrator."
    if found.gpfq:
        whose = " and ".join(_name(p) for p in found.gpfq.precisions)
        told += (f" {found.gpfq.bits} bits, {found.gpfq.alphabet} alphabet: {found.gpfq.parameters:,} weights in "
                 f"{size(found.gpfq.packed_bytes)}, of {size(found.gpfq.float_bytes)} as floats; the codes are what "
                 f"the {whose} engines hold.")
    return " ".join(part for part in (told, gpfq_told(found)) if part)


def gpfq_told(found: Quantization) -> str:
    """What GPFQ's weights alone cost on val: 'Val top-1 71.20 % with GPFQ's weights, 79.90 % with …'; "" unknown."""
    gpfq = found.gpfq
    if gpfq is None or gpfq.val_top1_percent is None or gpfq.float_val_top1_percent is None:
        return ""
    return (f"Val top-1 {percent(gpfq.val_top1_percent)} % with GPFQ's {gpfq.bits}-bit weights, "
            f"{percent(gpfq.float_val_top1_percent)} % with those of the float network "
            f"({signed(gpfq.val_top1_percent - gpfq.float_val_top1_percent)} points on {gpfq.val_images:,} images).")


def summary(report: Report) -> str:
    """Below the headline: what GPFQ cost, and which network the FP32 engine is where it holds the codes; "" without."""
    found = report.quantization
    if found is None or found.gpfq is None:
        return ""
    told = gpfq_told(found)
    if "fp32" in found.gpfq.precisions:
        names = [engine.name for engine in report.engines if engine.precision == "fp32"]
        whose = f"{names[0]} is" if len(names) == 1 else "The FP32 engines are"
        told = (f"{whose} the GPFQ network, as no integer type holds its codes, and the reference of every accuracy "
                f"here: none shows what GPFQ cost. {told}").rstrip()
        others = sorted({engine.precision.upper() for engine in report.engines} - {"FP32"})
        told += f" The {' and '.join(others)} engines are the float network." if others else ""
    return told


def storage_rows(report: Report) -> list[tuple[str, ...]]:
    """One row an engine, as STORAGE_TITLES; engines that share an ONNX file differ in their own file alone."""
    assert report.quantization is not None
    files = {engine.name: engine.engine_bytes for engine in report.engines}
    return [(s.name, _some(s.codes_bytes), _some(s.scales_bytes), _some(s.zero_points_bytes), size(s.floats_bytes),
             size(s.payload_bytes),
             f"{8 * (s.codes_bytes + s.scales_bytes + s.zero_points_bytes) / s.coded_weights:.2f}"
             if s.coded_weights else NOTHING, size(s.packed_bytes), size(files.get(s.name)))
            for s in report.quantization.storage]


def repair_rows(found: Quantization) -> list[RepairRow]:
    """One row a method that was tried, in the order tried."""
    rows = []
    for step in found.repairs:
        judged = step.top1_before is not None and step.top1_after is not None
        gain = step.top1_after - step.top1_before if step.top1_after is not None and step.top1_before is not None else 0
        rows.append(RepairRow(
            step.method, step.precision.upper(), percent(step.top1_before), percent(step.top1_after),
            signed(gain) if judged else NOTHING, "yes" if step.kept else "no", seconds(step.seconds), step.did,
            "good" if gain > 0 else "bad" if gain < 0 else "plain"))
    return rows


def gpfq_rows(found: Quantization) -> list[tuple[str, ...]]:
    """One row a layer, as GPFQ_TITLES; none of another method."""
    return [(layer.name, f"{layer.parameters:,}", f"{100 * layer.relative_error:.2f}",
             f"{100 * layer.nearest_relative_error:.2f}", size(layer.packed_bytes), layer.coding)
            for layer in (found.gpfq.layers if found.gpfq else [])]


def mixed_rows(mixed: Mixed) -> list[tuple[str, ...]]:
    """One row a layer, as MIXED_TITLES."""
    return [(layer.name, _name(layer.precision), NOTHING if layer.loss_nats is None else f"{layer.loss_nats:.3g}",
             size(layer.bytes), f"{layer.parameters:,}", "the recipe" if layer.fixed else mixed.policy)
            for layer in mixed.layers]


def mixed_told(mixed: Mixed) -> str:
    """What was predicted and measured: 'mixed.onnxruntime.cpu_x86, policy budget: KL to the float network …'"""
    both = mixed.predicted.get("loss_nats"), mixed.measured.get("kl_nats")
    loss = ", ".join(f"{value:.3g} nats {how}" for value, how in zip(both, ("predicted", "measured"), strict=True)
                     if value is not None)
    taken, whole = mixed.measured.get("weight_bytes"), mixed.measured.get("fp32_weight_bytes")
    weights = f"{size(int(taken))} of {size(int(whole))} of FP32's weights" if taken and whole else ""
    told = "; ".join(part for part in (
        _budget_told(mixed), f"KL to the float network {loss}" if loss else "", weights, _joins_told(mixed)) if part)
    return f"{mixed.engine}, policy {mixed.policy}{': ' if told else ''}{told}."


def _budget_told(mixed: Mixed) -> str:
    """'asked for at most 0.9 of FP32's p50, measured 0.82 (0.098 of 0.128 ms) when it was chosen'."""
    budget = mixed.budget
    if budget is None:
        return ""
    if budget.kind == "bytes":
        whole = f", {budget.asked:g} of FP32's" if budget.asked <= 1 else ""
        return f"asked for at most {size(int(budget.limit))} of weights{whole}"
    told = f"asked for at most {budget.asked:g} of FP32's p50"
    share, ms, fp32 = (mixed.measured.get(key) for key in ("share", "latency_ms", "fp32_latency_ms"))
    if share is None:
        return told
    return f"{told}, measured {share:.2f} ({milliseconds(ms)} of {milliseconds(fp32)} ms) when it was chosen"


def _joins_told(mixed: Mixed) -> str:
    """'joins float', and of `auto` what decided: ', chosen by auto: 0.0017 nats, quantized 0.0018 nats'."""
    told = f"joins {mixed.joins}"
    taken = next((check for check in mixed.checks if check.accepted), None)
    other = next((check for check in mixed.checks if taken and check.assignment == taken.assignment
                  and check.joins != taken.joins), None)
    if taken is None or other is None:
        return told
    figures = [", ".join(part for part in (f"{check.kl_nats:.3g} nats" if check.kl_nats is not None else "",
                                           f"{check.share:.2f} of FP32's p50" if check.share else "") if part)
               for check in (taken, other)]
    return f"{told}, chosen by auto: {figures[0]}; {other.joins}: {figures[1]}"


def _name(precision: str) -> str:
    """'INT8 weight-only'."""
    first, _, rest = precision.partition("_")
    return first.upper() + (f" {rest.replace('_', '-')}" if rest else "")


def _some(number: int) -> str:
    return size(number) if number else NOTHING

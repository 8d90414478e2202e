"""The figures of a sweep as text: study.md, study.html and the console show the same cells."""

from __future__ import annotations

from toolchain.report.words import NOTHING, signed, size
from toolchain.study.sweep import AtBytes, Estimate, SweepResult

LAW = (
    "acc(b) = a − A exp(−k (b − 2)), least squares over the mean accuracy at each number of bits; float is no point of "
    "it.", "In brackets the 95 % Student-t interval of the seeds' own fits; none where a seed alone has no law, or it "
    "would reach what cannot be (above 100 %, below 2 bits). One point below a: the bits that reach it.",
    "Float above a: what no number of bits of this kind brings back.")
LAW_TITLES = ("Row", "a, %", "A, points", "k", "RMSE, points", "Bits to 1 point below a", "Float above a, points")
AT_TITLES = ("Row", "Bytes", "Its top-1, %", "The other's, %", "Difference, points (95 %)", "")
AT_BYTES = ("Packed: codes at their own bits, scales and float tensors. At each size that one of the two has and both "
            "reach; the other's accuracy is interpolated between two of its bits, linearly in log bytes.")


def curve_titles(found: SweepResult) -> tuple[str, ...]:
    """The columns: one for each number of bits, and float."""
    return ("Row", *(f"{bits} bit" for bits in found.bits), "Float")


def curve_rows(found: SweepResult) -> list[tuple[str, ...]]:
    """Two lines a row: top-1 in percent, mean ± std over the seeds, and packed bytes."""
    rows: list[tuple[str, ...]] = []
    for curve in found.curves:
        points = {point.bits: point for point in curve.points}
        cells = []
        for bits in found.bits:
            point = points.get(bits)
            spread = f" ± {point.std:.2f}" if point is not None and point.std is not None else ""
            cells.append(NOTHING if point is None else f"{point.mean:.2f}{spread}")
        whole = NOTHING if curve.float_top1 is None else f"{curve.float_top1:.2f}"
        rows.append((f"{curve.row}, top-1 %", *cells, whole))
        sizes = [points[bits].bytes if bits in points else None for bits in found.bits]
        rows.append((f"{curve.row}, packed", *(size(None if n is None else round(n)) for n in sizes), ""))
    return rows


def law_rows(found: SweepResult) -> list[tuple[str, ...]]:
    """One line a row, or why it has no law."""
    rows: list[tuple[str, ...]] = []
    for curve in found.curves:
        law = curve.law
        if law is None:
            rows.append((curve.row, str(curve.no_law), *[""] * 5))
            continue
        gap = NOTHING if law.float_gap is None else signed(law.float_gap)
        rows.append((curve.row, _estimate(law.a), _estimate(law.amplitude), _estimate(law.k), f"{law.rmse:.2f}",
                     NOTHING if law.bits_for_one_point is None else _estimate(law.bits_for_one_point), gap))
    return rows


def at_rows(found: SweepResult) -> list[tuple[str, ...]]:
    """One line a row and size."""
    return [(at.row, size(round(at.bytes)), f"{at.row_top1:.2f}", f"{at.against_top1:.2f}",
             signed(at.mean) + _interval(at), at.verdict) for at in found.at_bytes]


def apart_lines(found: SweepResult) -> list[str]:
    """A sentence for each pair that has no size in common."""
    return [f"{pair}: no size that both reach, so nothing is said of equal bytes." for pair in found.apart]


def _estimate(estimate: Estimate) -> str:
    interval = "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.value:.2f}{interval}".replace("-", "−")


def _interval(at: AtBytes) -> str:
    return "" if at.low is None or at.high is None else f" ({signed(at.low)} to {signed(at.high)})"

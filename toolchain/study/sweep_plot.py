"""Accuracy against bits, or against bytes on a log axis, as inline SVG: one curve a row."""

from __future__ import annotations

import math
from html import escape
from typing import Literal

from toolchain.report.plot import Frame, line, linear_ticks, log_ticks, number, shape, svg, tick_text, words
from toolchain.study.law import Fit
from toolchain.study.sweep import Curve, SweepPoint, SweepResult

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760.0, 380.0, 52.0, 130.0, 14.0, 48.0
COLOURS, MARKS, STEPS = 6, ("circle", "square", "diamond", "triangle"), 48
LABEL_HEIGHT = 15.0
MILLION = 1e6


def sweep_plot(found: SweepResult, axis: Literal["bits", "bytes"]) -> str:
    """Every curve with its law as a line (else straight from point to point); "" where no row has two points."""
    curves = [(index, curve, [p for p in curve.points if _x(p, axis) is not None])
              for index, curve in enumerate(found.curves)]
    curves = [one for one in curves if len(one[2]) > 1]
    if not curves:
        return ""
    frame = _frame([p for *_, points in curves for p in points], [c.float_top1 for _, c, _ in curves], axis)
    parts = _axes(frame, axis)
    ends = []
    for index, curve, points in curves:
        parts.append(f'<g class="c{index % COLOURS}">{"".join(_curve(curve, points, frame, axis, index))}</g>')
        ends.append((frame.y(points[-1].mean), index, curve.row))
    for y, index, name in _apart(ends):
        label = words(frame.right + 10, y + 4, name if len(name) <= 16 else name[:15] + "…", "label", "start")
        parts.append(f'<g class="c{index % COLOURS}">{label}</g>')
    told = "; ".join(f"{curve.row}: " + ", ".join(f"{p.bits} bit {p.mean:.2f} %" for p in points)
                     for _, curve, points in curves)
    return svg(WIDTH, HEIGHT, f"Top-1 against {axis}. {told}", "sweep", parts)


def _curve(curve: Curve, points: list[SweepPoint], frame: Frame, axis: str, index: int) -> list[str]:
    parts = []
    if curve.float_top1 is not None:
        y = frame.y(curve.float_top1)
        parts.append(line(frame.left, y, frame.right, y, "float"))
    path = " ".join(f"{number(frame.x(x))},{number(frame.y(y))}" for x, y in _line(curve, points, axis))
    parts.append(f'<polyline class="trace" points="{path}"/>')
    for point in points:
        x, y = frame.x(_x(point, axis) or 0.0), frame.y(point.mean)
        if point.low is not None and point.high is not None:
            low, high = max(point.low, frame.y0), min(point.high, frame.y1)
            parts.append(line(x, frame.y(low), x, frame.y(high), "bar"))
        size = "" if point.bytes is None else f", {point.bytes / MILLION:.3g} MB"
        parts.append(f"<g><title>{escape(curve.row)}, {point.bits} bit{size}: {point.mean:.2f} %</title>"
                     f'{shape(MARKS[index % len(MARKS)], x, y, 60, "mark")}</g>')
    return parts


def _line(curve: Curve, points: list[SweepPoint], axis: str) -> list[tuple[float, float]]:
    """The law between the first and the last point; on the byte axis, bits lie between the bytes of the points."""
    if curve.law is None:
        return [(_x(p, axis) or 0.0, p.mean) for p in points]
    law = Fit(curve.law.a.value, curve.law.amplitude.value, curve.law.k.value, curve.law.rmse)
    found = []
    for left, right in zip(points, points[1:], strict=False):
        x0, x1 = _x(left, axis) or 0.0, _x(right, axis) or 0.0
        for step in range(STEPS // len(points) + 1):
            share = step / (STEPS // len(points))
            found.append((x0 + share * (x1 - x0), law.at(left.bits + share * (right.bits - left.bits))))
    return found


def _x(point: SweepPoint, axis: str) -> float | None:
    if axis == "bits":
        return float(point.bits)
    return math.log10(point.bytes / MILLION) if point.bytes else None


def _frame(points: list[SweepPoint], floats: list[float | None], axis: str) -> Frame:
    xs = [x for p in points if (x := _x(p, axis)) is not None]
    ys = [*(p.mean for p in points), *(f for f in floats if f is not None)]
    room, side = max(max(ys) - min(ys), 0.5) * 0.08, max(max(xs) - min(xs), 0.1) * 0.05
    return Frame(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM, min(xs) - side, max(xs) + side, max(min(ys) - room, 0.0),
                 min(max(ys) + room, 100.0))


def _axes(frame: Frame, axis: str) -> list[str]:
    ticks = ([(float(b), tick_text(b)) for b in range(math.ceil(frame.x0), math.floor(frame.x1) + 1)] if axis == "bits"
             else [(math.log10(t), tick_text(t)) for t in log_ticks(10**frame.x0, 10**frame.x1)])
    parts = []
    for x, text in ticks:
        parts += [line(frame.x(x), frame.top, frame.x(x), frame.bottom, "grid"),
                  words(frame.x(x), frame.bottom + 18, text, "tick")]
    for y in linear_ticks(frame.y0, frame.y1, 6):
        parts += [line(frame.left, frame.y(y), frame.right, frame.y(y), "grid"),
                  words(frame.left - 8, frame.y(y) + 4, tick_text(y), "tick", "end")]
    title = "bits of a weight" if axis == "bits" else "packed MB (log scale)"
    return [*parts, words((frame.left + frame.right) / 2, frame.bottom + 38, f"{title}; up: top-1, %", "axis")]


def _apart(ends: list[tuple[float, int, str]]) -> list[tuple[float, int, str]]:
    """Labels from top to bottom, each at least its own height below the one before."""
    placed: list[tuple[float, int, str]] = []
    for y, index, name in sorted(ends):
        placed.append((max(y, placed[-1][0] + LABEL_HEIGHT) if placed else y, index, name))
    return placed

"""Figures as inline SVG, drawn by pure functions: accuracy against latency and size, and training curves.

Colours come from the page's CSS (class p-<precision> sets `color`), so light and dark need no second drawing. Numbers
are rounded to a tenth of a unit, so the same input gives the same text on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from toolchain.report.labels import Box, place

SHAPES = {"onnxruntime": "circle", "openvino": "square", "tensorrt_rtx": "diamond", "tensorrt": "triangle"}


class Point(NamedTuple):
    """One engine on the plot; `low` and `high` bound its top-1, `late_ms` is its p95, None where unknown."""

    label: str
    title: str
    precision: str
    runtime: str
    p50_ms: float
    late_ms: float | None
    top1: float
    low: float | None
    high: float | None
    weight_bytes: float


class Frame(NamedTuple):
    """A drawing area in SVG units, and the data range it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Data to SVG, left to right."""
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Data to SVG, bottom to top."""
        return self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.bottom - self.top)


def number(value: float) -> str:
    """A coordinate, rounded to a tenth: '12.5', '12'."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def tick_text(value: float) -> str:
    """A tick's label without needless zeros: 0.5, 2, 97.5."""
    return f"{value:.10g}"


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """1-2-5 numbers within [low, high], both above 0; only powers of ten when there would be more than `most`."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    fine = [round(m * 10.0**p, 12) for p in powers for m in (1, 2, 5) if low * 0.999 <= m * 10.0**p <= high * 1.001]
    coarse = [t for t in fine if math.isclose(math.log10(t), round(math.log10(t)))]
    return coarse if len(fine) > most and coarse else fine


def shape(kind: str, x: float, y: float, area: float, css: str) -> str:
    """A mark of this area in square SVG units, whatever its shape."""
    if kind == "square":
        side = math.sqrt(area)
        return (f'<rect class="{css}" x="{number(x - side / 2)}" y="{number(y - side / 2)}" width="{number(side)}" '
                f'height="{number(side)}" rx="{number(side / 7)}"/>')
    if kind in ("diamond", "triangle"):
        r = math.sqrt(area / 2) if kind == "diamond" else math.sqrt(area * 4 / (3 * math.sqrt(3)))
        angles = (90, 0, 270, 180) if kind == "diamond" else (90, 330, 210)
        corners = " ".join(f"{number(x + r * math.cos(math.radians(a)))},{number(y - r * math.sin(math.radians(a)))}"
                           for a in angles)
        return f'<polygon class="{css}" points="{corners}"/>'
    return f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="{number(math.sqrt(area / math.pi))}"/>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """One straight line."""
    return f'<line class="{css}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'


def words(x: float, y: float, text: str, css: str, anchor: str = "middle") -> str:
    """One line of text, escaped."""
    return f'<text class="{css}" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(width: float, height: float, label: str, css: str, parts: Sequence[str]) -> str:
    """The whole drawing with its description for screen readers."""
    box = f"0 0 {number(width)} {number(height)}"
    return f'<svg class="{css}" viewBox="{box}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _accuracy_frame(points: Sequence[Point], width: float, height: float) -> Frame:
    lows = [p.low if p.low is not None else p.top1 for p in points]
    highs = [p.high if p.high is not None else p.top1 for p in points]
    room = max(max(highs) - min(lows), 0.5) * 0.12
    first = min(p.p50_ms for p in points)
    last = max(max(p.p50_ms, p.late_ms or 0.0) for p in points)
    side = max(math.log10(last / first) * 0.14, 0.12)
    return Frame(left=56, top=16, right=width - 18, bottom=height - 48, x0=math.log10(first) - side,
                 x1=math.log10(last) + side, y0=min(lows) - room, y1=max(highs) + room)


def _accuracy_axes(frame: Frame) -> list[str]:
    ticks_x = log_ticks(10**frame.x0, 10**frame.x1, most=9 if frame.right > 500 else 5)
    parts = []
    for tick in ticks_x:
        x = frame.x(math.log10(tick))
        parts += [line(x, frame.top, x, frame.bottom, "grid"), words(x, frame.bottom + 18, tick_text(tick), "tick")]
    for tick in linear_ticks(max(frame.y0, 0.0), min(frame.y1, 100.0), 7):
        y = frame.y(tick)
        parts += [line(frame.left, y, frame.right, y, "grid"),
                  words(frame.left - 8, y + 4, tick_text(tick), "tick", "end")]
    middle = (frame.left + frame.right) / 2
    return [*parts, words(middle, frame.bottom + 40, "p50 latency, ms (log scale) – left is faster", "axis"),
            f'<text class="axis" transform="translate(13 {number((frame.top + frame.bottom) / 2)}) rotate(-90)" '
            'text-anchor="middle">top-1, %</text>']


def _bars(point: Point, frame: Frame) -> list[str]:
    x, y = frame.x(math.log10(point.p50_ms)), frame.y(point.top1)
    parts = []
    if point.low is not None and point.high is not None:
        parts.append(line(x, frame.y(point.low), x, frame.y(point.high), "bar"))
        parts += [line(x - 4, frame.y(v), x + 4, frame.y(v), "bar") for v in (point.low, point.high)]
    if point.late_ms is not None:
        end = frame.x(math.log10(point.late_ms))
        parts += [line(x, y, end, y, "bar"), line(end, y - 4, end, y + 4, "bar")]
    return parts


def accuracy_plot(points: Sequence[Point], width: float, height: float, css: str = "plot") -> str:
    """Top-1 over p50 latency (log), area by weight bytes, bars for the top-1 interval and for p50 to p95.

    `points` must not be empty. Larger marks are drawn first; every label keeps clear of marks and other labels.
    """
    frame = _accuracy_frame(points, width, height)
    largest, biggest_area = max(p.weight_bytes for p in points) or 1.0, 0.0042 * min(width, 760) * height
    drawn = sorted(points, key=lambda p: -p.weight_bytes)
    areas = [max(p.weight_bytes / largest * biggest_area, 36.0) for p in drawn]
    centres = [(frame.x(math.log10(p.p50_ms)), frame.y(p.top1)) for p in drawn]
    radii = [math.sqrt(a / math.pi) for a in areas]
    marks = [Box(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    whiskers = [Box(x - 3, frame.y(p.high), x + 3, frame.y(p.low))
                for p, (x, _) in zip(drawn, centres, strict=True) if p.low is not None and p.high is not None]
    whiskers += [Box(x, y - 4, frame.x(math.log10(p.late_ms)) + 2, y + 4)
                 for p, (x, y) in zip(drawn, centres, strict=True) if p.late_ms is not None]
    spots = place([p.label for p in drawn], centres, radii, marks, whiskers,
                  Box(frame.left + 2, frame.top, frame.right - 2, frame.bottom - 2))
    parts = _accuracy_axes(frame)
    for point, area, (x, y) in zip(drawn, areas, centres, strict=True):
        mark = shape(SHAPES.get(point.runtime, "circle"), x, y, area, "mark")
        parts.append(f'<g class="p-{escape(point.precision)}"><title>{escape(point.title)}</title>'
                     + "".join(_bars(point, frame)) + mark + "</g>")
    for point, spot in zip(drawn, spots, strict=True):
        leader = line(*spot.leader, "leader") if spot.leader else ""
        parts.append(f'<g class="p-{escape(point.precision)}">{leader}'
                     + words(spot.x, spot.y, point.label, "label", spot.anchor) + "</g>")
    told = "; ".join(p.title for p in points)
    return svg(width, height, f"Top-1 accuracy over latency, mark area by weight bytes. {told}", css, parts)


def curve(values: Sequence[tuple[int, float | None]], title: str, css: str = "curve",
          width: float = 440, height: float = 190, percent: bool = False) -> str:
    """A training curve over epochs: (epoch, value or None for an epoch without one); "" when no epoch has one."""
    known = [(epoch, value) for epoch, value in values if value is not None]
    if not known:
        return ""
    low, high = min(v for _, v in known), max(v for _, v in known)
    room = max((high - low) * 0.12, abs(high) * 0.01, 1e-6)
    first, last = min(e for e, _ in values), max(e for e, _ in values)
    frame = Frame(46, 14, width - 14, height - 30, first - 0.5 * (first == last), last + 0.5 * (first == last),
                  max(low - room, 0.0), min(high + room, 100.0) if percent else high + room)
    parts = []
    for tick in linear_ticks(frame.y0, frame.y1, 4):
        parts += [line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid"),
                  words(frame.left - 8, frame.y(tick) + 4, tick_text(tick), "tick", "end")]
    whole = [t for t in linear_ticks(first, last, 6) if t == int(t)] or [first]
    parts += [words(frame.x(t), frame.bottom + 19, tick_text(t), "tick") for t in whole]
    path = " ".join(f"{number(frame.x(e))},{number(frame.y(v))}" for e, v in known)
    parts.append(f'<polyline class="trace" points="{path}"/>')
    if len(known) <= 60:
        parts += [f'<circle class="dot" cx="{number(frame.x(e))}" cy="{number(frame.y(v))}" r="3">'
                  f"<title>epoch {e}: {v:.4g}</title></circle>" for e, v in known]
    told = f"{title} over epochs {first} to {last}: from {known[0][1]:.4g} to {known[-1][1]:.4g}"
    return svg(width, height, told, css, parts)

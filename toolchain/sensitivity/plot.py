"""A layer's drop over its ratio as inline SVG, all layers of a scan on the same axes."""

from __future__ import annotations

from html import escape

from toolchain.report.plot import Frame, line, linear_ticks, number, svg, tick_text, words
from toolchain.sensitivity.file import LayerScan, Sensitivity
from toolchain.sensitivity.words import cell, column


def drop_range(found: Sensitivity) -> tuple[float, float]:
    """The smallest (at most 0) and the largest (at least 1) drop of the scan, with some room."""
    drops = [point.drop for layer in found.layers for point in layer.points]
    low, high = min(0.0, *drops), max(1.0, *drops)
    room = 0.06 * (high - low)
    return low - room * (low < 0), high + room


def drop_curve(layer: LayerScan, low: float, high: float, width: float = 300, height: float = 150) -> str:
    """Drop in points over the share that is gone, from (0, 0); `low` and `high` bound the axis."""
    points = [(0.0, 0.0), *((100 * float(point.ratio or 0), point.drop) for point in layer.points)]
    frame = Frame(44, 10, width - 22, height - 34, 0, 100, low, high)
    parts = []
    for tick in linear_ticks(low, high, 4):
        parts += [line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid"),
                  words(frame.left - 7, frame.y(tick) + 4, tick_text(tick), "tick", "end")]
    parts += [words(frame.x(tick), frame.bottom + 16, f"{tick} %", "tick") for tick in (0, 50, 100)]
    path = " ".join(f"{number(frame.x(x))},{number(frame.y(y))}" for x, y in points)
    parts.append(f'<polyline class="trace" points="{path}"/>')
    told = [f"{column(point)}: {cell(point)[0]} points, {cell(point)[1]} nats" for point in layer.points]
    parts += [f'<circle class="dot" cx="{number(frame.x(x))}" cy="{number(frame.y(y))}" r="3">'
              f"<title>{escape(text)}</title></circle>" for (x, y), text in zip(points[1:], told, strict=True)]
    return svg(width, height, f"Drop of {layer.name} over the share that is gone. {'; '.join(told)}", "curve", parts)

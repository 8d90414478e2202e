"""Figures of a pruned network as inline SVG: weight histograms, accuracy over what was removed, predicted latency."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.report.plot import Frame, line, linear_ticks, number, svg, tick_text, words
from toolchain.report.pruned import Histogram, LatencyCheck

WIDTH, HEIGHT = 220.0, 108.0  # of a histogram: small enough for a phone to show one a line, and four on a screen


def histogram(found: Histogram, title: str) -> str:
    """Weights that are not zero before (pale area) and after (line), each bin's count on one common scale."""
    bins = len(found.before)
    frame = Frame(6, 6, WIDTH - 6, HEIGHT - 20, 0, bins, 0, max(*found.before, *found.after, 1))
    limit = f"{found.limit:.2g}"
    parts = [line(frame.left, frame.bottom, frame.right, frame.bottom, "grid"),
             f'<path class="before" d="{_steps(found.before, frame)} Z"/>',
             f'<path class="after" d="{_steps(found.after, frame)}"/>',
             words(frame.left, HEIGHT - 6, f"−{limit}", "tick", "start"),
             words((frame.left + frame.right) / 2, HEIGHT - 6, "0", "tick"),
             words(frame.right, HEIGHT - 6, limit, "tick", "end")]
    told = (f"{title}: weights that are not zero, from −{limit} to {limit}: {sum(found.before):,} before, "
            f"{sum(found.after):,} after")
    return svg(WIDTH, HEIGHT, told, "histogram", parts)


def removed_curve(points: Sequence[tuple[float, float, str]], axis: str, width: float = 440, height: float = 240
                  ) -> str:
    """Top-1 in percent over the share removed: (percent removed, top-1, name of the point); "" with fewer than two."""
    if len(points) < 2:
        return ""
    ordered = sorted(points)
    values = [value for _, value, _ in points]
    room = max((max(values) - min(values)) * 0.15, 0.5)
    end = min(100.0, max(share for share, _, _ in points) * 1.06 + 1)
    frame = Frame(50, 14, width - 14, height - 44, 0, end, max(min(values) - room, 0.0), min(max(values) + room, 100.0))
    parts = [*_axes(frame, axis), _polyline([(share, value) for share, value, _ in ordered], frame)]
    parts += [_dot(frame.x(share), frame.y(value), f"{name}: {share:.1f} % removed, top-1 {value:.2f} %")
              for share, value, name in points]
    told = "; ".join(f"{name}: {share:.1f} %, top-1 {value:.2f} %" for share, value, name in points)
    return svg(width, height, f"Val top-1 over {axis}. {told}", "curve", parts)


def predicted_plot(checks: Sequence[LatencyCheck], width: float = 440, height: float = 240) -> str:
    """Measured over predicted milliseconds, with the line on which both are equal; "" without checks."""
    if not checks:
        return ""
    everything = [ms for check in checks for ms in (check.predicted_ms, check.measured_ms)]
    room = max((max(everything) - min(everything)) * 0.1, max(everything) * 0.02)
    low, high = max(min(everything) - room, 0.0), max(everything) + room
    frame = Frame(58, 14, width - 14, height - 44, low, high, low, high)
    parts = [*_axes(frame, "predicted ms"), line(frame.x(low), frame.y(low), frame.x(high), frame.y(high), "equal")]
    parts += [_dot(frame.x(c.predicted_ms), frame.y(c.measured_ms),
                   f"check {i}: predicted {c.predicted_ms:.4g} ms, measured {c.measured_ms:.4g} ms")
              for i, c in enumerate(checks, start=1)]
    told = f"Measured over predicted latency of {len(checks)} rebuilt engines, in ms"
    return svg(width, height, told, "curve", parts)


def _axes(frame: Frame, title: str) -> list[str]:
    parts = []
    for tick in linear_ticks(frame.y0, frame.y1, 4):
        parts += [line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid"),
                  words(frame.left - 8, frame.y(tick) + 4, tick_text(tick), "tick", "end")]
    parts += [words(frame.x(tick), frame.bottom + 18, tick_text(tick), "tick")
              for tick in linear_ticks(frame.x0, frame.x1, 5)]
    return [*parts, words((frame.left + frame.right) / 2, frame.bottom + 38, title, "axis")]


def _polyline(values: Sequence[tuple[float, float]], frame: Frame) -> str:
    path = " ".join(f"{number(frame.x(x))},{number(frame.y(y))}" for x, y in values)
    return f'<polyline class="trace" points="{path}"/>'


def _dot(x: float, y: float, title: str) -> str:
    return f'<circle class="dot" cx="{number(x)}" cy="{number(y)}" r="3.5"><title>{title}</title></circle>'


def _steps(counts: Sequence[int], frame: Frame) -> str:
    """The outline of a histogram: from the axis up, along the bins, and down again."""
    edges = [f"M{number(frame.left)} {number(frame.bottom)}"]
    edges += [f"V{number(frame.y(n))}H{number(frame.x(i + 1))}" for i, n in enumerate(counts)]
    return "".join(edges) + f"V{number(frame.bottom)}"

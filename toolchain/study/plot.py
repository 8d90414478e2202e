"""A dot-plot as inline SVG: every seed a small dot, every row's mean a mark with its 95 % interval."""

from __future__ import annotations

from html import escape

from toolchain.report.plot import Frame, line, linear_ticks, number, shape, svg, tick_text, words
from toolchain.study import cells
from toolchain.study.figures import METRICS
from toolchain.study.result import Figure, StudyResult

LETTER, LINE, TOP, BOTTOM = 6.8, 34.0, 12.0, 46.0  # width of a letter, height of a row, margins, in SVG units
LONGEST = 26  # letters of a row's name that are shown
REACH = 1.5  # how far the axis may reach beyond the dots for an interval, in spans of the dots


def dot_plot(result: StudyResult, metric: str, width: float = 760) -> str:
    """One metric of every row that has it, the control's mean as a dashed line; "" where no row has it.

    The interval of two or three seeds may be much wider than all dots together: it is then cut at the frame, without
    its end mark, so that the dots stay apart.
    """
    rows = [(row.name, row.figures[metric]) for row in result.rows if metric in row.figures]
    if not rows:
        return ""
    names = [name if len(name) <= LONGEST else name[:LONGEST - 1] + "…" for name, _ in rows]
    low, high = _range([figure for _, figure in rows])
    left = 20 + LETTER * max(map(len, names))
    frame = Frame(left, TOP, width - 18, TOP + LINE * len(rows), low, high, 0, len(rows))
    parts = [line(frame.x(t), frame.top, frame.x(t), frame.bottom, "grid") for t in linear_ticks(low, high, 7)]
    parts += [words(frame.x(t), frame.bottom + 18, tick_text(t), "tick") for t in linear_ticks(low, high, 7)]
    parts.append(words((frame.left + frame.right) / 2, frame.bottom + 38, cells.heading(metric), "axis"))
    control = next((figure for name, figure in rows if name == result.control), None)
    if control:
        x = frame.x(control.mean)
        parts.append(line(x, frame.top, x, frame.bottom, "control"))
    for index, ((name, figure), shown) in enumerate(zip(rows, names, strict=True)):
        y = TOP + LINE * (index + 0.5)
        parts.append(words(left - 12, y + 4, shown, "name", "end"))
        parts.append(_row(figure, frame, y, _told(name, metric, figure), name == result.control))
    told = f"{METRICS[metric].title} by row. " + "; ".join(_told(name, metric, figure) for name, figure in rows)
    return svg(width, frame.bottom + BOTTOM, told, "dots", parts)


def _row(figure: Figure, frame: Frame, y: float, title: str, is_control: bool) -> str:
    parts = [f"<title>{escape(title)}</title>"]
    if figure.low is not None and figure.high is not None:
        ends = [max(figure.low, frame.x0), min(figure.high, frame.x1)]
        parts.append(line(frame.x(ends[0]), y, frame.x(ends[1]), y, "bar"))
        parts += [line(frame.x(v), y - 5, frame.x(v), y + 5, "bar")
                  for v in (figure.low, figure.high) if frame.x0 <= v <= frame.x1]
    parts += [f'<circle class="seed" cx="{number(frame.x(v))}" cy="{number(y + 9)}" r="2.5"/>'
              for v in figure.values.values()]
    mark = shape("diamond" if is_control else "circle", frame.x(figure.mean), y, 90, "mean")
    return f'<g class="{"is-control" if is_control else "row"}">{"".join(parts)}{mark}</g>'


def _range(figures: list[Figure]) -> tuple[float, float]:
    """The axis: all dots, and as much of the intervals as leaves the dots readable."""
    values = [value for figure in figures for value in figure.values.values()]
    span = max(max(values) - min(values), abs(max(values)) * 1e-3, 1e-6)
    lows = [min(values), *(f.low for f in figures if f.low is not None)]
    highs = [max(values), *(f.high for f in figures if f.high is not None)]
    return (max(min(lows), min(values) - REACH * span) - 0.06 * span,
            min(max(highs), max(values) + REACH * span) + 0.06 * span)


def _told(name: str, metric: str, figure: Figure) -> str:
    mean, interval = cells.figure_cell(metric, figure)
    return f"{name}: {mean}" + (f", 95 % {interval}" if interval else "")

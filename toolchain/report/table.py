"""The table at the end of a build, drawn by rich: one row an engine, the limits below.

A figure and its interval share a line where the terminal is wide enough, else the interval stands underneath. Without a
terminal there is no colour and no line drawing, so that a CI log stays readable.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolchain.report import devices, notices, pruned_words, quantized_words, taught, validity, words
from toolchain.report.limits import RULES, asks, found_words
from toolchain.report.schema import EngineResult, LimitResult, Report

PLAIN_WIDTH = 124
COLOURS = {"fp32": "bright_black", "fp16": "blue", "bf16": "cyan", "int8": "dark_orange", "int4": "magenta",
           "fp8": "yellow", "int8_weight_only": "dark_orange", "mixed": "green"}
MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}
MEASURED_TITLES = ("Top-1 %", "Agree %", "p50 ms", "Speed-up", "Memory")
REASON_LINES = 3
AGAINST_UNPRUNED = "vs unpruned"


def _figures(engine: EngineResult, pruned: bool) -> list[tuple[str, str]]:
    """(figure, what stands after or under it) for each of MEASURED_TITLES; of a pruned network one more."""
    speedup, latency, gained = engine.speedup_vs_fp32, engine.latency_ms, engine.speedup_vs_unpruned
    against = (words.times(gained.value if gained else None), words.speedup_interval(gained))
    return [
        (words.percent(engine.top1_percent), words.interval(engine.top1_interval)),
        (words.percent(engine.agreement_percent), ""),
        (words.milliseconds(latency.p50 if latency else None), words.spread(latency) + validity.mark(engine)),
        (words.times(speedup.value if speedup else None), words.speedup_interval(speedup)),
        (words.size(engine.peak_memory_bytes), ""),
        *([against] if pruned else []),
    ]


def _cell(figure: tuple[str, str], gap: str) -> Text:
    return Text.assemble(figure[0], (f"{gap}{figure[1]}", "dim") if figure[1] else "")


def _grid(cells: Sequence[Text], widths: Sequence[int]) -> Table:
    """A row of fixed widths inside one cell: rich has no cells that span columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        grid.add_column(justify="right", width=width, no_wrap=True)
    grid.add_row(*cells)
    return grid


def _widths(rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max(cell_len(line) for row in rows for line in row[i].plain.split("\n")) for i in range(len(rows[0]))]


def _short_target(target: str) -> str:
    """'sm80+sm86+sm89+sm120' -> 'sm80…sm120': the whole list stands in report.md and report.html."""
    parts = target.split("+")
    return target if len(parts) < 3 else f"{parts[0]}…{parts[-1]}"


def _name(engine: EngineResult, gap: str) -> Text:
    return Text.assemble((f"{engine.precision.upper():4} ", COLOURS.get(engine.precision, "")), engine.runtime,
                         (gap + _short_target(engine.target) + ", unpruned" * engine.unpruned, "dim"))


def _wrapped(reason: str, width: int) -> str:
    """A reason in at most REASON_LINES lines, so that it takes no room from the figures; report.md has all of it."""
    return "\n".join(textwrap.wrap(reason, width, max_lines=REASON_LINES, placeholder=" …"))


def engine_table(engines: Sequence[EngineResult], wide: bool, plain: bool) -> Table:
    """One row an engine; one that was not measured says why across the measured columns."""
    inline, below = (" ", " ") if wide else ("\n", "\n     ")
    pruned = any(e.unpruned for e in engines)  # beside what it is compared with
    titles = [Text(t, style="bold") for t in (*MEASURED_TITLES, *([AGAINST_UNPRUNED] if pruned else []))]
    cells = {e.name: [_cell(f, inline) for f in _figures(e, pruned)] for e in engines if e.measured}
    widths = _widths([titles, *cells.values()])
    table = Table(box=None if plain else box.ROUNDED, border_style="bright_black", pad_edge=not plain, padding=(0, 1),
                  show_lines=not wide and not plain, header_style="bold")
    table.add_column("Engine", no_wrap=True)
    table.add_column(_grid(titles, widths), no_wrap=True)
    table.add_column("Weights", justify="right", no_wrap=True)
    table.add_column("Engine file", justify="right", no_wrap=True)
    runtime = None
    for engine in engines:
        if wide and not plain and runtime not in (None, engine.runtime):
            table.add_section()
        runtime = engine.runtime
        why = Text(_wrapped(words.unmeasured(engine), sum(widths) + 2 * len(widths)), style="dim italic")
        middle = _grid(cells[engine.name], widths) if engine.measured else why
        table.add_row(_name(engine, below), middle, words.size(engine.weight_bytes), words.size(engine.engine_bytes))
    return table


def devices_table(report: Report) -> Table:
    """One row for each engine on each device."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in devices.TITLES:
        table.add_column(title, overflow="fold")
    for row in devices.rows(report):
        table.add_row(*row)
    return table


def limit_line(result: LimitResult) -> Text:
    """'✓ int8.onnxruntime.cpu_x86  speedup  6.62×, asked at least 3×'."""
    mark, style = MARKS[result.held]
    found = found_words(result)
    unit_once = asks(result).removesuffix(RULES[result.limit].unit) if result.limit == "weight_bytes" else asks(result)
    return Text.assemble((f" {mark} ", style), result.engine, (f"  {result.limit}  ", "bold"),
                         (found, style if result.held is False else ""), (f", asked {unit_once}", "dim"))


def limit_lines(results: Sequence[LimitResult]) -> list[Text]:
    """Every broken limit, then one line that counts those held, beside those that are not, and one for those not
    checked."""
    lines = [limit_line(r) for r in results if r.held is False]
    others = f", {len(lines)} not" if lines else ""
    held, unchecked = ([r for r in results if r.held is state] for state in (True, None))
    if held:
        lines.append(Text.assemble((" ✓ ", "green"), f"{len(held)} held{others}"))
    if unchecked:
        reasons = "; ".join(dict.fromkeys(str(r.reason) for r in unchecked))
        lines.append(Text(f" – {len(unchecked)} not checked here ({reasons})", style="dim"))
    return lines


def render_table(report: Report, width: int, plain: bool) -> RenderableType:
    """Everything a build shows at its end, for `width` columns; `plain`: no line drawing."""
    engines = [*report.engines, *report.unpruned]
    table = engine_table(engines, wide=True, plain=plain)
    if Console(width=1000).measure(table).maximum > width:
        table = engine_table(engines, wide=False, plain=plain)
    parts: list[RenderableType] = [Text(""), table, Text("")]
    if report.devices:
        parts += [Text("On devices", style="bold"), devices_table(report),
                  *(Text(told) for told in devices.told(report)), Text("")]
    if report.limits:
        parts += [Text("Limits", style="bold"), *limit_lines(report.limits), Text("")]
    parts.append(Text(words.headline(report), style="bold"))
    parts += [Text(told, style="yellow") for told in notices.notices(report)]
    if doubt := validity.told(engines):
        parts.append(Text(doubt, style="yellow"))
    below = (quantized_words.summary(report), pruned_words.summary(report), taught.summary(report))
    parts += [Text(told) for told in below if told]
    return Group(*parts)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the table to `console` (null: stdout, 124 columns wide where it is no terminal)."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=PLAIN_WIDTH)
    plain = not console.is_terminal
    if console.encoding.startswith("utf"):
        console.print(render_table(report, console.width, plain), highlight=False)
        return
    with console.capture() as captured:
        console.print(render_table(report, console.width, plain), highlight=False)
    console.file.write(_ascii(captured.get()))


def _ascii(text: str) -> str:
    """The same table for a terminal without Unicode."""
    marks: dict[str, str | int | None] = {"×": "x", "±": "+-", "–": "-", "−": "-", "✓": "ok", "✗": "NO", "…": ".."}
    return text.translate(str.maketrans(marks)).encode("ascii", "replace").decode()

"""study.html: one self-contained page; it loads nothing from anywhere and runs no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolchain import report
from toolchain.study import cells, sweep_cells
from toolchain.study.figures import METRICS
from toolchain.study.plot import dot_plot
from toolchain.study.result import StudyResult
from toolchain.study.sweep_plot import sweep_plot

FOLDERS = [Path(__file__).parent, Path(report.__file__).parent]  # our page, in the report's style


def _sweep(result: StudyResult) -> dict[str, Any] | None:
    found = result.sweep
    if found is None:
        return None
    return {"plots": [(title, Markup(plot)) for title, plot in (
                ("Against bits", sweep_plot(found, "bits")), ("Against bytes", sweep_plot(found, "bytes"))) if plot],
            "tables": [(title, told, titles, rows) for title, told, titles, rows in (
                ("Bits", "", sweep_cells.curve_titles(found), sweep_cells.curve_rows(found)),
                ("The law", " ".join(sweep_cells.LAW), sweep_cells.LAW_TITLES, sweep_cells.law_rows(found)),
                (f"Against {found.against} at equal bytes", sweep_cells.AT_BYTES, sweep_cells.AT_TITLES,
                 sweep_cells.at_rows(found))) if rows],
            "apart": sweep_cells.apart_lines(found)}


def render_html(result: StudyResult) -> str:
    """study.html as text; jinja2 escapes every name, the plots escape their own."""
    environment = Environment(loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    plots = [(METRICS[m].title, Markup(dot_plot(result, m))) for m in result.metrics if METRICS[m].compared]
    metrics = cells.compared(result)
    return environment.get_template("study.html.j2").render(
        sweep=_sweep(result), result=result, progress=cells.progress(result), plots=plots,
        failures=cells.failure_lines(result),
        headings=[cells.heading(m) for m in result.metrics], compared=[cells.heading(m) for m in metrics],
        rows=[(cells.name_cell(row, result), cells.epochs_cell(row),
               [cells.figure_cell(m, row.figures.get(m)) for m in result.metrics]) for row in result.rows],
        differences=[(row.name, [cells.difference_cell(m, row.versus_control.get(m)) for m in metrics])
                     for row in result.rows if row.name != result.control],
    ).rstrip() + "\n"

"""What a study says on stdout, drawn by rich: the table at its end, and what it would do."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from toolchain.study import cells, sweep_cells
from toolchain.study.cells import in_line
from toolchain.study.plan import Planned
from toolchain.study.result import StudyResult

PLAIN_WIDTH = 160  # columns where stdout is no terminal


def print_study(result: StudyResult, console: Console | None = None) -> None:
    """Print the rows, the first metric's differences and the runs that failed; study.md and study.html hold the rest.
    """
    console = console or _stdout()
    table = _table(f"{result.name}: {cells.progress(result)}")
    table.add_column("Row")
    table.add_column("Epochs")
    for metric in result.metrics:
        table.add_column(cells.heading(metric), justify="right")
    for row in result.rows:
        table.add_row(in_line(cells.name_cell(row, result)), in_line(cells.epochs_cell(row)),
                      *(cells.figure_cell(metric, row.figures.get(metric))[0] for metric in result.metrics))
    console.print(table, markup=False)
    if result.sweep:
        law = _table("acc(b) = a - A exp(-k (b - 2))")
        for title in sweep_cells.LAW_TITLES:
            law.add_column(title)
        for line in sweep_cells.law_rows(result.sweep):
            law.add_row(*line)
        console.print(law, markup=False)
    for metric in cells.compared(result)[:1]:
        console.print(_differences(result, metric), markup=False)
    if result.undecided:
        console.print(result.undecided, markup=False, soft_wrap=True)
    for failure in cells.failure_lines(result):
        console.print(f"failed: {failure}", markup=False, soft_wrap=True)


def print_plan(title: str, planned: Sequence[Planned], console: Console | None = None) -> None:
    """Print every run with the number of stages it would make, and the sum."""
    console = console or _stdout()
    console.print(title, markup=False, soft_wrap=True)
    table = _table()
    for name in ("Row", "Seed", "Stages", "To do"):
        table.add_column(name, justify="left" if name == "Row" else "right")
    for run in planned:
        table.add_row(run.row, str(run.seed), str(run.stages), str(run.to_do))
    console.print(table, markup=False)
    to_do, runs = sum(run.to_do for run in planned), sum(run.to_do > 0 for run in planned)
    told = f"{to_do} stages to do in {runs} of {len(planned)} runs; one that several runs share counts in the first"
    console.print(told if to_do else "nothing to do: every stage is cached", markup=False, soft_wrap=True)


def _differences(result: StudyResult, metric: str) -> Table:
    """A table of its own: an interval is too long for a column beside the means."""
    table = _table()
    for title in (f"{cells.heading(metric)}: to {result.control}", "Difference", "95 %"):
        table.add_column(title)
    for row in result.rows:
        if row.name != result.control:
            table.add_row(row.name, *cells.difference_cell(metric, row.versus_control.get(metric)))
    return table


def _table(title: str | None = None) -> Table:
    return Table(box=None, header_style="bold", title=title, title_justify="left", padding=(0, 2, 0, 0))


def _stdout() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)

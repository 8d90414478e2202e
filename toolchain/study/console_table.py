"""The table at the end of a study, drawn by rich on stdout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from toolchain.study import cells
from toolchain.study.result import StudyResult

PLAIN_WIDTH = 160  # columns where stdout is no terminal


def print_study(result: StudyResult, console: Console | None = None) -> None:
    """Print the rows, their differences to the control and the runs that failed."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=PLAIN_WIDTH)
    compared = cells.compared(result)
    table = Table(box=None, header_style="bold", title=f"{result.name}: {cells.progress(result)}", title_justify="left",
                  padding=(0, 2, 0, 0))
    table.add_column("Row")
    table.add_column("Epochs")
    for metric in result.metrics:
        table.add_column(cells.heading(metric), justify="right")
        if metric in compared:
            table.add_column(f"to {result.control}", justify="right")
    for row in result.rows:
        line = [cells.name_cell(row, result), cells.epochs_cell(row)]
        for metric in result.metrics:
            line.append(_stacked(cells.figure_cell(metric, row.figures.get(metric))))
            if metric in compared:
                line.append("" if row.name == result.control
                            else _stacked(cells.difference_cell(metric, row.versus_control.get(metric))))
        table.add_row(*line)
    console.print(table, markup=False)
    for failure in cells.failure_lines(result):
        console.print(f"failed: {failure}", markup=False, soft_wrap=True)


def _stacked(cell: tuple[str, str]) -> str:
    return f"{cell[0]}\n{cell[1]}" if cell[1] else cell[0]

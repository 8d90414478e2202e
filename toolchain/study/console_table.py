"""The table at the end of a study, drawn by rich on stdout: the means, and the first metric's differences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from toolchain.study import cells
from toolchain.study.cells import in_line
from toolchain.study.result import StudyResult

PLAIN_WIDTH = 160  # columns where stdout is no terminal


def print_study(result: StudyResult, console: Console | None = None) -> None:
    """Print the rows and the runs that failed; study.md and study.html hold every interval and difference."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=PLAIN_WIDTH)
    table = Table(box=None, header_style="bold", title=f"{result.name}: {cells.progress(result)}", title_justify="left",
                  padding=(0, 2, 0, 0))
    table.add_column("Row")
    table.add_column("Epochs")
    for metric in result.metrics:
        table.add_column(cells.heading(metric), justify="right")
    first = next(iter(cells.compared(result)), None)
    if first:
        table.add_column(f"{cells.heading(first)}: to {result.control}")
    for row in result.rows:
        figures = [cells.figure_cell(metric, row.figures.get(metric))[0] for metric in result.metrics]
        difference = [cells.difference_cell(first, row.versus_control.get(first))[0]] if first else []
        table.add_row(in_line(cells.name_cell(row, result)), in_line(cells.epochs_cell(row)), *figures,
                      *([""] if first and row.name == result.control else difference))
    console.print(table, markup=False)
    for failure in cells.failure_lines(result):
        console.print(f"failed: {failure}", markup=False, soft_wrap=True)

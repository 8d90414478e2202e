"""study.md: the table of a study as GitHub Markdown."""

from __future__ import annotations

from toolchain.report.markdown import code, escape, table
from toolchain.study import cells, sweep_cells
from toolchain.study.cells import in_line
from toolchain.study.figures import METRICS
from toolchain.study.result import StudyResult


def render_markdown(result: StudyResult) -> str:
    """study.md as text; the same result gives the same bytes."""
    sections = [f"# {escape(result.name)}", f"{cells.progress(result)}, seeds {', '.join(map(str, result.seeds))}.",
                _sweep(result), _rows(result), _differences(result), _failures(result),
                "## How to read it\n" + "\n".join(f"- {escape(note)}" for note in result.notes), _recipes(result)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _rows(result: StudyResult) -> str:
    titles = ["Row", "Epochs", *(cells.heading(m) + " (95 %)" * METRICS[m].compared for m in result.metrics)]
    return table(titles, [
        [escape(in_line(cells.name_cell(row, result))), in_line(cells.epochs_cell(row)),
         *(in_line(cells.figure_cell(m, row.figures.get(m))) for m in result.metrics)] for row in result.rows])


def _sweep(result: StudyResult) -> str:
    found = result.sweep
    if found is None:
        return ""
    parts = ["## Accuracy against bits\n" + table(sweep_cells.curve_titles(found), _escaped(
                sweep_cells.curve_rows(found))),
             "### The law\n" + "\n".join(escape(line) for line in sweep_cells.LAW) + "\n\n"
             + table(sweep_cells.LAW_TITLES, _escaped(sweep_cells.law_rows(found)))]
    if found.at_bytes:
        parts.append(f"### Against {escape(found.against)} at equal bytes\n{sweep_cells.AT_BYTES}\n\n"
                     + table(sweep_cells.AT_TITLES, _escaped(sweep_cells.at_rows(found))))
    return "\n\n".join([*parts, *map(escape, sweep_cells.apart_lines(found))])


def _escaped(rows: list[tuple[str, ...]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _differences(result: StudyResult) -> str:
    metrics = cells.compared(result)
    if not metrics:
        return ""
    rows = [[escape(row.name), *(in_line(cells.difference_cell(m, row.versus_control.get(m))) for m in metrics)]
            for row in result.rows if row.name != result.control]
    return (f"## Difference to {escape(result.control)}\nPaired by seed.\n\n"
            + table(["Row", *(f"{cells.heading(m)} (95 %)" for m in metrics)], rows))


def _failures(result: StudyResult) -> str:
    lines = cells.failure_lines(result)
    return "## Failed runs\n" + "\n".join(f"- {escape(line)}" for line in lines) if lines else ""


def _recipes(result: StudyResult) -> str:
    common = f"Overrides of every row: {', '.join(map(code, result.set))}.\n\n" if result.set else ""
    rows = [[escape(row.name), code(row.recipe), ", ".join(map(code, row.set)), code(row.engine)]
            for row in result.rows]
    return "## Recipes\n" + common + table(["Row", "Recipe", "Overrides", "Judged engine"], rows, left=4)

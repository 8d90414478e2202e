"""The figures of a study as text: the console's table, study.md and study.html show the same cells."""

from __future__ import annotations

from toolchain.report.words import NOTHING
from toolchain.study.figures import METRICS, Metric
from toolchain.study.result import Difference, Figure, RowResult, StudyResult


def heading(metric: str) -> str:
    """'Top-1, %'."""
    title, unit = METRICS[metric].title, METRICS[metric].unit
    return f"{title}, {unit}" if unit else title


def figure_cell(metric: str, figure: Figure | None) -> tuple[str, str]:
    """('97.21 ± 0.32', '96.41 to 98.01'); the interval only where it is worth comparing."""
    if figure is None:
        return NOTHING, ""
    shown = METRICS[metric]
    mean = _number(figure.mean, shown)
    if figure.std is None or (figure.std == 0 and not shown.compared):
        return mean, ""
    interval = f"{_number(figure.low, shown)} to {_number(figure.high, shown)}" if shown.compared else ""
    return f"{mean} ± {_number(figure.std, shown)}", interval


def difference_cell(metric: str, difference: Difference | None) -> tuple[str, str]:
    """('+0.42 higher', '+0.10 to +0.74'), ('no difference', '+0.14; −0.90 to +1.18') or ('+0.42', 'one seed').

    An interval over the test images follows: '…, images −0.31 to +1.20'.
    """
    if difference is None:
        return NOTHING, ""
    shown = METRICS[metric]
    mean = _number(difference.mean, shown, sign=True)
    images = _between(difference.images_low, difference.images_high, shown)
    images = f", images {images}" if images else ""
    if difference.verdict == "one seed":
        return mean, f"one seed{images}"
    interval = _between(difference.low, difference.high, shown) + images
    if difference.verdict == "no difference":
        return "no difference", f"{mean}; {interval}"
    return f"{mean} {difference.verdict}", interval


def compared(result: StudyResult) -> list[str]:
    """The metrics whose difference to the control is shown; empty without a control."""
    return [m for m in result.metrics if any(m in row.versus_control for row in result.rows)]


def epochs_cell(row: RowResult) -> tuple[str, str]:
    """('8', ''), ('6 to 8', '') where early stopping differed by seed, ('8', 'budget differs')."""
    low, high = min(row.epochs.values(), default=0), max(row.epochs.values(), default=0)
    if not row.epochs:
        return NOTHING, ""
    return f"{low}" if low == high else f"{low} to {high}", "budget differs" if row.budget_differs else ""


def name_cell(row: RowResult, result: StudyResult) -> tuple[str, str]:
    """The row's name, and what it is where that matters: the control, or one with runs missing."""
    missing = len(result.seeds) - len(row.epochs)
    remarks = ["control"] * (row.name == result.control)
    remarks += ["other images"] * row.split_differs
    remarks += [f"{len(row.failures)} failed"] * bool(row.failures)
    remarks += [f"{len(row.epochs)} of {len(result.seeds)} seeds"] * bool(missing)
    return row.name, ", ".join(remarks)


def in_line(cell: tuple[str, str]) -> str:
    """'97.21 ± 0.32 (96.41 to 98.01)'."""
    return f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]


def failure_lines(result: StudyResult) -> list[str]:
    """'dkd, seed 1: train: the loss is nan …' of every run that failed."""
    return [f"{row.name}, seed {failure.seed}: {failure.message}" for row in result.rows for failure in row.failures]


def progress(result: StudyResult) -> str:
    """'6 of 6 runs finished'."""
    return f"{result.runs_done} of {result.runs} runs finished"


def _between(low: float | None, high: float | None, metric: Metric) -> str:
    if low is None or high is None:
        return ""
    return f"{_number(low, metric, sign=True)} to {_number(high, metric, sign=True)}"


def _number(value: float | None, metric: Metric, sign: bool = False) -> str:
    if value is None:
        return NOTHING
    text = f"{value:{'+' if sign else ''},.{metric.decimals}f}"
    if float(text.replace(",", "")) == 0:  # no minus before a zero
        text = text.lstrip("+-")
    return text.replace("-", "−")

"""What the two pages say of quantization: the section of report.md, and the values that quantized.html.j2 shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from toolchain.report import quantized_words as told
from toolchain.report.schema import Report

Table = Callable[[Sequence[str], Iterable[Sequence[str]], int], str]


def quantized_markdown(report: Report, code: Callable[[object], str], escape: Callable[[object], str], table: Table
                       ) -> str:
    """The section as Markdown by the page's own `code`, `escape` and `table`; "" where there is none."""
    found = report.quantization
    if found is None:
        return ""

    def rows(lines: Iterable[Sequence[str]]) -> list[list[str]]:
        return [[code(first), *map(escape, rest)] for first, *rest in lines]

    repairs, layers = told.repair_rows(found), told.gpfq_rows(found)
    parts = [
        escape(told.intro(found)),
        f"### True storage\n{told.STORAGE}\n\n" + table(told.STORAGE_TITLES, rows(told.storage_rows(report)), 1),
        "### Accuracy repair\n" + table(told.REPAIR_TITLES, rows(row[:-1] for row in repairs), 2) if repairs else "",
        f"### GPFQ, layer by layer\n{escape(told.GPFQ)}\n\n" + table(told.GPFQ_TITLES, rows(layers), 1)
        if layers else "",
        *(f"### Mixed precision\n{escape(told.mixed_told(one))}\n\n"
          + table(told.MIXED_TITLES, rows(told.mixed_rows(one)), 2) for one in found.mixed)]
    return "## Quantization\n" + "\n\n".join(part for part in parts if part)


def quantized_section(report: Report) -> dict[str, Any] | None:
    """What the page shows; None where there is nothing."""
    found = report.quantization
    if found is None:
        return None
    return {
        "intro": told.intro(found), "storage_titles": told.STORAGE_TITLES, "storage": told.storage_rows(report),
        "storage_told": told.STORAGE, "repair_titles": told.REPAIR_TITLES, "repairs": told.repair_rows(found),
        "gpfq_titles": told.GPFQ_TITLES, "gpfq": told.gpfq_rows(found), "gpfq_told": told.GPFQ,
        "mixed_titles": told.MIXED_TITLES,
        "mixed": [(told.mixed_told(one), told.mixed_rows(one)) for one in found.mixed]}

"""What `toolchain check` says on stdout: what is wrong first, and what was tolerated."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolchain.check.finding import Finding
from toolchain.check.verdict import MARKS, Verdict

PLAIN_WIDTH = 140  # columns where stdout is no terminal
COLOURS = {"regression": "bold red", "not enough evidence": "yellow", "pass": "green", "not judged": "dim"}


def print_verdict(verdict: Verdict, everything: bool = False, stderr: bool = False) -> None:
    """One row a quantity of an engine, the engines in the report's order; what passes shares a row, or has its own."""
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:
        console = Console(highlight=False, stderr=stderr, width=PLAIN_WIDTH)
    grid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("engine", "quantity", "", "found"):
        grid.add_column(title, overflow="fold")
    shown = ""
    for finding in verdict.findings if everything else _shortened(verdict.findings):
        name = Text(finding.engine if finding.engine != shown else "")
        shown = finding.engine
        mark = Text(MARKS[finding.outcome], COLOURS[finding.outcome])
        grid.add_row(name, Text(finding.what), mark, Text(finding.told))
    with console.capture() as captured:
        console.print(grid)
        console.print(Text(f"\n{verdict.asked.told()}"), soft_wrap=True)
        for told in verdict.notices:
            console.print(Text(f"notice: {told}", "yellow"), soft_wrap=True)
        console.print(Text(verdict.headline(), COLOURS[verdict.outcome]), soft_wrap=True)
    text = captured.get()
    plain = text.translate({ord("✗"): "x", ord("✓"): "+", ord("–"): "-", ord("→"): ">"})
    console.file.write(text if console.encoding.startswith("utf") else plain.encode("ascii", "replace").decode())


def _shortened(findings: Sequence[Finding]) -> list[Finding]:
    """The same, with one finding for all that passes of an engine, after those that do not."""
    shown = []
    for engine in dict.fromkeys(finding.engine for finding in findings):
        own = [finding for finding in findings if finding.engine == engine]
        passed = [finding.what for finding in own if finding.outcome == "pass"]
        shown += [finding for finding in own if finding.outcome != "pass"]
        if passed:
            shown.append(Finding(engine, f"{len(passed)} quantities" if len(passed) > 1 else "1 quantity", "pass",
                                 ", ".join(passed)))
    return shown

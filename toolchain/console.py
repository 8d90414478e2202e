"""What long work shows while it runs: a live bar on a terminal, plain log lines elsewhere.

The bar shows done/total, rate, elapsed time, ETA and the latest values (loss, accuracy). Without a terminal a line
is printed at most every few seconds, so that CI logs stay readable. Output goes to stderr: stdout is for results.
rich is imported only when a bar is drawn, so the target side does not need it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 5.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence `log` and `bar` (used by --quiet and by the secondary ranks of a distributed run)."""
    global _quiet
    _quiet = quiet


def log(message: str) -> None:
    """One line on stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def _format(values: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


class PlainBar:
    """Progress as log lines: one when LINE_EVERY_S have passed, and one at the end."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total, self.done, self.shown = title, total, 0, 0
        self.values: dict[str, Any] = {}
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1, **values: Any) -> None:
        """`n` more units are done; `values` are shown beside the count until replaced."""
        self.done += n
        self.values.update(values)
        if time.monotonic() - self.last >= LINE_EVERY_S:
            self.show()

    def show(self) -> None:
        """Print the current state as one line, unless it has been said already."""
        if self.done == self.shown:
            return
        self.last, self.shown = time.monotonic(), self.done
        seconds = time.monotonic() - self.start
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate else ""
        total = f"/{self.total}" if self.total else ""
        log(f"  {self.title}: {self.done}{total} ({rate:.3g}/s{left})  {_format(self.values)}".rstrip())


class RichBar:
    """Progress as a live terminal bar."""

    def __init__(self, progress: Any, title: str, total: int | None) -> None:
        self.progress = progress
        self.values: dict[str, Any] = {}
        self.task = progress.add_task(title, total=total, values="")

    def advance(self, n: int = 1, **values: Any) -> None:
        """`n` more units are done; `values` are shown beside the bar until replaced."""
        self.values.update(values)
        self.progress.update(self.task, advance=n, values=_format(self.values))


@contextmanager
def bar(title: str, total: int | None) -> Iterator[PlainBar | RichBar]:
    """Progress of `total` units (None: unknown) under `title`: call `.advance(n, loss=…)` as work gets done."""
    if _quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        plain = PlainBar(title, total)
        yield plain
        if time.monotonic() - plain.start >= LINE_EVERY_S:
            plain.show()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield RichBar(progress, title, total)

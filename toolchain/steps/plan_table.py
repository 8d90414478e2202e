"""What `toolchain plan` says on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolchain.workdir import Stage

PLAIN_WIDTH = 140  # of a pipe or a file
TO_DO, CACHED = Text("to do", style="bold yellow"), Text("cached", style="dim")


def print_plan(title: str, stages: Sequence[Stage], needs: bool, download: tuple[str, Path] | None, missing: str | None
               ) -> None:
    """A line for each stage that is known, and what is missing or else how much is to do.

    needs: also each stage's key and what it reads. download: (name of the dataset, folder it will come into).
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    to_do = sum(not stage.cached for stage in stages)
    if stages:
        console.print(title, markup=False, soft_wrap=True)
        console.print(_table(stages, needs))
    if download and to_do:
        console.print(f"{download[0]} is not on disk: the build downloads it into {download[1]}", markup=False,
                      style="yellow", soft_wrap=True)
    if missing:
        if stages:
            console.print("the stages above are those known so far; what follows needs what is missing", soft_wrap=True)
        console.print(f"missing: {missing}", markup=False, style="bold red", soft_wrap=True)
        return
    hint = "" if needs else " (--needs shows what each reads)"
    console.print(f"{to_do} of {len(stages)} stages to do{hint}" if to_do else "nothing to do: every stage is cached",
                  soft_wrap=True)


def _table(stages: Sequence[Stage], needs: bool) -> Table:
    table = Table(box=None)
    for column in ("stage", "state", *(("key", "needs") if needs else ())):
        table.add_column(column, overflow="fold", no_wrap=column in ("state", "key"))
    for stage in stages:
        told = (stage.key[:12], ", ".join(stage.needs)) if needs else ()
        table.add_row(stage.name, CACHED if stage.cached else TO_DO, *told)
    return table

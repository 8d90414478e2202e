"""What `toolchain blame` says on stdout: the layers that cost most, and what to write into the recipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from toolchain.blame import words
from toolchain.blame.file import Blame

PLAIN_WIDTH = 140  # columns where stdout is no terminal
SHOWN = 8


def print_blame(found: Blame) -> None:
    """The worst layers as a table; all of them stand in blame.md and blame.json."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    grid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for place, title in enumerate(words.TITLES):
        grid.add_column(title, justify="right" if 1 < place < 6 else "left", overflow="fold")
    for layer in found.layers[:SHOWN]:
        grid.add_row(*words.row(layer))
    if len(found.layers) > SHOWN:
        grid.add_row(f"… {len(found.layers) - SHOWN} more …")
    with console.capture() as captured:
        console.print(words.headline(found), markup=False, soft_wrap=True)
        console.print(grid, markup=False)
        edit = words.lines(found.proposal) if found.proposal else []
        console.print("\n".join(["", found.told, *(f"  {line}" for line in edit)]), markup=False, soft_wrap=True)
    text = captured.get()
    console.file.write(text if console.encoding.startswith("utf") else text.replace("–", "-").replace("…", "...")
                       .encode("ascii", "replace").decode())

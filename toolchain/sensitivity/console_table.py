"""What `toolchain sensitivity` says on stdout: the most and the least sensitive layers, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from toolchain.sensitivity import words
from toolchain.sensitivity.advice import advice
from toolchain.sensitivity.file import Kind, Sensitivity

PLAIN_WIDTH = 120  # columns where stdout is no terminal
ASCII = str.maketrans({"–": "-", "−": "-", "×": "x", "…": "...", "‖": "||"})


def print_scans(scans: Mapping[Kind, Sensitivity], files: Mapping[Kind, str]) -> None:
    """One table a scan; layers between the most and the least sensitive ones are left to sensitivity.md and .html."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    with console.capture() as captured:
        for kind, found in scans.items():
            title = f"{words.TITLES[kind]}, most sensitive first: drop of top-1 in points"
            console.print(f"{title}\n{words.headline(found)}", markup=False, soft_wrap=True)
            console.print(_table(found), markup=False)
            told, lines = advice(found, files[kind])
            console.print("\n".join(["", told, *(f"  {line}" for line in lines), ""]), markup=False, soft_wrap=True)
    text = captured.get()
    encodable = console.encoding.startswith("utf")
    console.file.write(text if encodable else text.translate(ASCII).encode("ascii", "replace").decode())


def _table(found: Sensitivity) -> Table:
    grid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("Group" if found.kind == "channels" else "Layer", overflow="fold")
    for name in ("Weights", *words.columns(found), "mean KL, nats"):
        grid.add_column(name, justify="right")
    layers = words.ranked(found)
    left_out = len(layers) - 2 * words.SHOWN
    for place, layer in enumerate(layers):
        if left_out > 0 and words.SHOWN <= place < len(layers) - words.SHOWN:
            if place == words.SHOWN:
                grid.add_row(f"… {left_out} more …")
            continue
        grid.add_row(layer.name, f"{layer.parameters:,}", *(words.cell(point)[0] for point in layer.points),
                     words.nats(words.mean_drop(layer)[1]))
    return grid

"""Files that a recipe names and a build reads only after training: they are looked for before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import DataError
from toolchain.recipe.schema import Recipe
from toolchain.recipe.yaml_file import Where, read_yaml

SET = ("quantize", "calibration", "set")
MANIFEST = "manifest.json"  # what makes a folder a calibration set


def refuse_missing_set(recipe: Recipe, base: Path, place: str = "") -> None:
    """Raise DataError where the recipe's calibration set is not there.

    base: the recipe's folder, from which the path starts, else from the current one. place: where the field is written.
    """
    name = recipe.quantize.calibration.set
    if name is None:
        return
    found = next((folder for folder in (base / name, Path(name)) if folder.exists()), None)
    where = f"{place and place + ': '}{'.'.join(SET)}: "
    if found is None:
        raise DataError(f"{where}'{name}' exists neither in {base} nor in the current folder; mend the path, make a "
                        "set with `toolchain calib`, or leave it out to draw images from train")
    if not (found / MANIFEST).is_file():
        raise DataError(f"{where}{found} holds no {MANIFEST}, so it is no calibration set; make one with `toolchain "
                        "calib`, or leave it out to draw images from train")


def refuse_missing_files(path: Path, recipe: Recipe, overrides: Sequence[str] = ()) -> None:
    """The same for the recipe in the file `path`; the message names the line, or the override. Raises DataError."""
    refuse_missing_set(recipe, path.parent, place(path, overrides, SET))


def place(path: Path, overrides: Sequence[str], field: Where) -> str:
    """Where the recipe's field is written: in an override, on a line (its own, or else its section's), or nowhere."""
    for override in reversed(overrides):
        keys = tuple(override.partition("=")[0].strip().split("."))
        if keys == tuple(map(str, field[: len(keys)])):
            return f"--set {override}"
    lines = read_yaml(path)[1]
    line = next((lines[field[:depth]] for depth in range(len(field), 0, -1) if field[:depth] in lines), None)
    return f"{path}:{line}" if line else str(path)

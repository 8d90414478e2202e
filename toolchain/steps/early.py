"""What a recipe's file tells of a build that could not end well, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolchain.engines import repeated
from toolchain.errors import RecipeError
from toolchain.recipe.inputs import place, refuse_missing_files
from toolchain.recipe.limits import buildable, never_held
from toolchain.recipe.schema import Recipe


def refuse_early(path: Path, recipe: Recipe, overrides: Sequence[str] = (), here: bool = False) -> None:
    """Raise RecipeError for an engine that is listed twice and for limits that no engine could hold, DataError for a
    calibration set that is not there; each with file, line and field.

    here: the default engines are those that this machine can build, else whatever some machine might.
    """
    told = [f"{place(path, overrides, ('engines', index))}: {wrong}"
            for index, wrong in repeated(recipe.engines or ()).items()]
    precisions = buildable(recipe)
    if here and recipe.engines is None:
        from toolchain.steps.target import choose_engines

        precisions = {engine.precision for engine in choose_engines(recipe).values()}
    told += [f"{place(path, overrides, field)}: {'.'.join(map(str, field))}: {wrong}"
             for field, wrong in never_held(recipe, precisions)]
    if told:
        raise RecipeError("\n".join(told))
    refuse_missing_files(path, recipe, overrides)

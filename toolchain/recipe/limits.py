"""Limits that no build of the recipe could hold, since it has none of the engines that they need."""

from __future__ import annotations

from collections.abc import Collection

from toolchain.recipe.precision import Precision
from toolchain.recipe.schema import DEFAULT_PRECISIONS, PRECISIONS, Gpfq, Limits, Recipe
from toolchain.recipe.yaml_file import Where

AGAINST_FP32 = ("top1_drop", "agreement", "speedup", "weight_bytes", "faster")  # compared with an FP32 engine


def asked_by_name(limits: Limits, precision: str) -> list[str]:
    """Limits that the section of this precision asks for: written there, and not what holds anyway.

    A build fails where one of them could not be checked on a single engine.
    """
    own = getattr(limits, precision)
    values = {name: getattr(own, name) for name in type(own).model_fields if name in own.model_fields_set}
    return [name for name, value in values.items()
            if value is not None and value is not False and value != type(own).model_fields[name].default]


def buildable(recipe: Recipe) -> set[Precision]:
    """Precisions of the engines that the recipe lists, or else of those it may get on some machine."""
    if recipe.engines is not None:
        return {engine.precision for engine in recipe.engines}
    usual: set[Precision] = {*DEFAULT_PRECISIONS} | ({"mixed"} if recipe.quantize.mixed else set())
    codes = recipe.quantize
    return {one for one in usual if not (isinstance(codes, Gpfq) and codes.holds_others(one))}


def never_held(recipe: Recipe, precisions: Collection[str]) -> list[tuple[Where, str]]:
    """(field, what is wrong with it) of each limit that engines of these precisions alone could not hold."""
    whose = "engines has none of it" if recipe.engines else "the default engines have none of it"
    found: list[tuple[Where, str]] = []
    for precision in PRECISIONS:
        where = ("limits", precision)
        for name in asked_by_name(recipe.limits, precision):
            if precision not in precisions:
                told = f"needs an engine of precision {precision}, but {whose}; {_add(recipe, precision)}"
                found.append(((*where, name), f"{told}, or remove limits.{precision}"))
            elif name in AGAINST_FP32 and "fp32" not in precisions:
                told = f"compares with an FP32 engine, but {whose}; {_add(recipe, 'fp32')}"
                found.append(((*where, name), f"{told}, or remove it"))
    return found


def _add(recipe: Recipe, precision: str) -> str:
    if precision == "mixed" and recipe.quantize.mixed is None:
        return "add quantize.mixed" + (" and an engine with precision mixed" if recipe.engines else "")
    if recipe.engines:
        return f"add an engine with precision {precision}"
    return f"list engines, one with precision {precision}"

"""A limit that no engine of the recipe could hold is told before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.recipe.limits import buildable, never_held
from toolchain.recipe.schema import Recipe


def recipe(limits: dict[str, Any], *precisions: str, **more: Any) -> Recipe:
    engines = [{"runtime": "onnxruntime", "precision": precision} for precision in precisions] or None
    return Recipe.model_validate({"name": "r", "model": {"arch": "vgg11"}, "engines": engines, "limits": limits, **more})


def refused(asked: Recipe) -> list[str]:
    return [".".join(where) for where, _ in never_held(asked, buildable(asked))]


def test_a_precision_without_an_engine_is_refused_and_every_such_limit_told() -> None:
    asked = recipe({"int4": {"top1": 99, "engine_bytes": 5}, "mixed": {"top1": 99}, "int8": {"top1": 90}}, "fp32", "int8")
    assert refused(asked) == ["limits.int4.top1", "limits.int4.engine_bytes", "limits.mixed.top1"]
    told = dict(never_held(asked, buildable(asked)))
    assert told["limits", "int4", "top1"] == ("needs an engine of precision int4, but engines has none of it; add an engine with "
                                              "precision int4, or remove limits.int4")
    assert "add quantize.mixed and an engine with precision mixed" in told["limits", "mixed", "top1"]


@pytest.mark.parametrize("limit", [{"faster": True}, {"top1_drop": 1}, {"speedup": 2}, {"agreement": 90}, {"weight_bytes": 0.3}])
def test_a_comparison_with_fp32_needs_an_fp32_engine(limit: dict[str, Any]) -> None:
    assert refused(recipe({"int8": limit}, "int8")) == [f"limits.int8.{next(iter(limit))}"]
    assert refused(recipe({"int8": limit}, "int8", "fp32")) == []


def test_the_default_engines_have_the_usual_precisions_and_mixed_where_a_section_says_how() -> None:
    limits = {name: {"top1": 9} for name in ("fp32", "fp16", "bf16", "fp8", "int8", "int4", "mixed")}
    assert refused(recipe(limits)) == ["limits.fp8.top1", "limits.mixed.top1"]
    assert refused(recipe(limits, quantize={"method": "ptq", "mixed": "simple"})) == ["limits.fp8.top1"]


def test_what_asks_for_nothing_by_name_is_no_mistake() -> None:
    asked = recipe({"top1_drop": 1, "faster": True, "int4": {"top1": None}, "int8": {"realised": 90}, "fp16": {"faster": False}}, "int8_weight_only")
    assert refused(asked) == []

"""What decided a pruned build, and after how much training it is judged: hand-made facts, figures worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.report.test_pruned import FACTS
from toolchain.report import pruned_choice, pruned_words
from toolchain.report.html import render_html
from toolchain.report.markdown import render_markdown
from toolchain.report.pruned import Pruning
from toolchain.report.schema import Report

DECIDED = {"engine": "fp32.onnxruntime.cpu_x86", "batch": 4, "budget": 0.5, "unpruned_ms": 2.5, "pruned_ms": 1.25,
           "speedup": {"value": 2.01, "low": 1.95, "high": 2.07}}
CHECKS = [{"predicted_ms": 1.1, "measured_ms": 1.0, "unpruned_ms": 2.5, "accepted": True},
          {"predicted_ms": 0.5, "measured_ms": 0.625, "unpruned_ms": 2.5, "accepted": False}, {"predicted_ms": 1.0, "measured_ms": 1.0}]
FACTORS = [{"name": "slow", "ranks": [4, 8], "speedup": {"value": 0.8, "low": 0.7, "high": 0.9}, "accepted": False},
           {"name": "un|sure<i>", "ranks": [6], "speedup": {"value": 1.1, "low": 0.9, "high": 1.3}, "accepted": False},
           {"name": "fast", "ranks": [2], "speedup": {"value": 1.5, "low": 1.4, "high": 1.6}, "accepted": True}]


def facts(**changed: Any) -> Pruning:
    return Pruning.model_validate(FACTS | changed)


def pages(joined: Callable[..., Report], engines: list[dict[str, Any]], **changed: Any) -> tuple[str, str]:
    """report.md without its escapes, and report.html."""
    report = joined(engines, pruning=FACTS | changed)
    return re.sub(r"\\(.)", r"\1", render_markdown(report)), render_html(report)


def test_predictions_stand_beside_what_was_measured_and_the_unpruned_engine() -> None:
    assert pruned_choice.check_rows(facts(checks=CHECKS)) == [
        ("1", "1.10", "1.00", "+10.00 %", "2.50", "0.40", "accepted"),
        ("2", "0.500", "0.625", "−20.00 %", "2.50", "0.25", "taken back"), ("3", "1.00", "1.00", "0.00 %", "–", "–", "")]


def test_both_pages_name_the_engine_that_decided_its_batch_and_the_budget(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> None:
    for page in pages(joined, engines, checks=CHECKS, decided=DECIDED):
        assert "fp32.onnxruntime.cpu_x86 decided at batch 4; the budget was 0.5 of the unpruned latency." in page
        assert "before the training after it: 1.25 of 2.50 ms, 2.01× as fast (95 %: 1.95–2.07)." in page
        assert "Unpruned ms" in page and "0.25" in page


def test_layers_that_were_factorized_come_first_and_the_others_say_why_not(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> None:
    found = facts(factorizing=FACTORS, decided=DECIDED | {"budget": None}, method="low_rank")
    assert [tuple(row) for row in pruned_choice.factor_rows(found)] == [
        ("fast", "2", "1.50× (1.40–1.60)", "factorized", "good"),
        ("slow", "4 and 8", "0.80× (0.70–0.90)", "left: slower as a chain", "bad"),
        ("un|sure<i>", "6", "1.10× (0.90–1.30)", "left: not measurably faster", "plain")]
    markdown, page = pages(joined, engines, factorizing=FACTORS, decided=DECIDED)
    assert pruned_choice.FACTOR_HEADING in markdown and pruned_choice.FACTOR_HEADING in page
    assert "| `un¦sure<i>` | 6 | 1.10× (0.90–1.30) |" in markdown
    assert "un|sure&lt;i&gt;" in page and "un|sure<i>" not in page


def test_factors_that_no_engine_was_asked_about_have_no_speed_up() -> None:
    found = facts(factorizing=[{"name": "a", "ranks": [2], "accepted": True}])
    assert pruned_choice.factor_rows(found) == [("a", "2", "–", "factorized", "plain")]
    assert pruned_choice.factor_intro(found).endswith("1 of 2 layers was to become a chain of smaller ones: no engine was asked whether that is faster.")


@pytest.mark.parametrize(("names", "told"), [
    (["a"], "1 of 2 layers keeps all weights, as its shape forbids the pattern: a."),
    (["a", "b"], "2 of 2 layers keep all weights, as their shape forbids the pattern: a, b."), ([], "")])
def test_layers_that_the_pattern_left_alone_are_named(names: list[str], told: str) -> None:
    assert pruned_choice.left_alone(facts(skipped=names)) == told
    assert told in pruned_words.intro(facts(skipped=names))


def test_of_many_layers_that_the_pattern_left_alone_three_are_named(joined: Callable[..., Report], engines: list[dict[str, Any]]) -> None:
    layers = [FACTS["layers"][0] | {"name": f"l{i}"} for i in range(21)]
    markdown, page = pages(joined, engines, layers=layers, skipped=["<a>", *(f"l{i}" for i in range(18))], method="sparse24")
    for text in (markdown, page):
        assert "19 of 21 layers keep all weights, as their shape forbids the pattern: &lt;a&gt;, l0, l1 and 16 more." in text


@pytest.mark.parametrize(("changed", "told"), [
    ({"epochs": 4}, "after 4 more epochs of training, which the unpruned network did not have"),
    ({"epochs": 1}, "after 1 more epoch of training, which the unpruned network did not have"),
    ({"epochs": 6, "rewound": True},
     "after 6 more epochs of training (2 rounds, each from reset weights), which the unpruned network did not have"),
    ({"epochs": 0}, "without further training"), ({}, "")])
def test_accuracy_says_how_much_training_came_before_it(changed: dict[str, Any], told: str) -> None:
    assert pruned_choice.training(facts(**changed)) == told
    assert bool(told) == ("Its accuracy was measured" in pruned_words.intro(facts(**changed)))

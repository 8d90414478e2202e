"""What a user reads when a study file is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.study import MetricName, load_study
from toolchain.study.figures import METRICS

Write = Callable[..., Path]
ROWS = "rows:\n  a: {recipe: tiny.yaml}\n"
SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "studies").glob("*.yaml"))


def complaint(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_study(path)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_study_is_named_like_its_file_and_compares_three_seeds(path: Path) -> None:
    study = load_study(path).study
    assert study.name == path.stem
    assert (study.control is not None or study.sweep is not None) and len(study.seeds) >= 3


def test_what_is_left_out_has_a_default(write: Write) -> None:
    study = load_study(write("name: s\nseeds: [3]\n" + ROWS)).study
    assert (study.control, study.engine, study.set, study.rows["a"].set) == (None, None, (), ())
    assert study.metrics == ("top1", "int8_top1", "kl", "agreement")


def test_every_metric_that_a_study_may_name_has_a_title() -> None:
    assert set(get_args(MetricName)) == set(METRICS)


@pytest.mark.parametrize(("text", "words"), [
    ("name: s\nseeds: []\n" + ROWS, ("study.yaml:2: seeds: the list is empty", "[0, 1, 2]")),
    ("name: s\nseeds: [0, 1, 0]\n" + ROWS, ("study.yaml:2: seeds: 0 stands in the list twice",)),
    ("name: s\nseeds: [-1]\n" + ROWS, ("seeds.0: found -1",)),
    ("name: s\nseeds: 3\n" + ROWS, ("seeds: found 3, expected a list",)),
    ("name: s\n" + ROWS, ("seeds: is required and missing",)),
    ("name: s\nseeds: [0]\nrows: {}\n", ("rows: there is no row",)),
    ("name: s\nseeds: [0]\ncontrol: b\nrows:\n  base: {recipe: tiny.yaml}\n  big: {recipe: tiny.yaml}\n",
     ("study.yaml:3: control: found 'b', expected one of the rows base, big",)),
    ("# nothing yet\n", ("study.yaml: expected the keys of a study (name, seeds, rows, …), found an empty file",)),
    ("name: s\nseeds: [0]\n" + ROWS + "  a: {recipe: other.yaml}\n", ("study.yaml:5: rows.a: the key stands twice", "line 4")),
    ("name: s\nseeds: [0]\nrows:\n  a b: {recipe: tiny.yaml}\n", ("'a b' cannot name a folder",)),
    ("name: s\nseeds: [0]\nrows:\n  a: {set: [train.epochs=1]}\n", ("study.yaml:4: rows.a.recipe: is required and missing",)),
    ("name: s\nseeds: [0]\nrows:\n  a: tiny.yaml\n", ("rows.a: found 'tiny.yaml', expected a mapping",)),
    ("name: s\nseeds: [0]\nmetrics: [top_1]\n" + ROWS, ("metrics.0: found 'top_1', expected top1 or", "did you mean 'top1'?")),
    ("name: s\nseeds: [0]\nset: [seed=3]\n" + ROWS, ("set: seed is set by the study",)),
    ("name: s\nseeds: [0]\nrows:\n  a: {recipe: tiny.yaml, set: [seed=3]}\n", ("rows: a.set: seed is set by the study",)),
    ("name: s/t\nseeds: [0]\n" + ROWS, ("name: found 's/t'",)),
    ("name: s\nmodel: {arch: vgg11_bn}\n", ("is a recipe, not a study", "toolchain build")),
])
def test_a_mistake_is_named_with_its_fix(write: Write, text: str, words: tuple[str, ...]) -> None:
    told = complaint(write(text))
    assert all(word in told for word in words), told


def test_all_mistakes_are_named_at_once_with_the_nearest_key(write: Write) -> None:
    told = complaint(write("name: s\nseed: [0]\ncontrols: a\nrows:\n  a: {recipe: tiny.yaml, sets: [x=1]}\n"))
    assert "study.yaml:2: seed: unknown key" in told and "did you mean 'seeds'?" in told
    assert "study.yaml:3: controls: unknown key" in told and "did you mean 'control'?" in told
    assert "study.yaml:5: rows.a.sets: unknown key; expected recipe, set, did you mean 'set'?" in told
    assert "seeds: is required and missing" in told


def test_a_study_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "no such study" in complaint(tmp_path / "none.yaml")

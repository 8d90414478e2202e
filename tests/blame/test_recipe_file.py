from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.blame.recipe_file import apply, check_unchanged
from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe

TEXT = """# yaml-language-server: $schema=schema.json
# A network.
name: net
model: {arch: vgg11_bn, width: 0.25}
train:
  epochs: 3          # enough
quantize:
  method: ptq
  calibrator: entropy    # as in the study
engines:
  - {runtime: onnxruntime, precision: fp32}   # the reference
  - {runtime: onnxruntime, precision: int8}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "net.yaml"
    path.write_text(TEXT)
    return path


def test_a_new_field_changes_nothing_else(recipe: Path) -> None:
    diff = apply(recipe, ("quantize", "int8", "keep_float"), ["features.0", "classifier"])
    assert recipe.read_text() == TEXT.replace("engines:", "  int8:\n    keep_float: [features.0, classifier]\nengines:")
    assert [line for line in diff.splitlines() if line.startswith("+ ")] == ["+  int8:", "+    keep_float: [features.0, classifier]"]


def test_a_value_is_replaced_beside_its_comment(recipe: Path) -> None:
    apply(recipe, ("quantize", "calibrator"), "max")
    assert recipe.read_text() == TEXT.replace("calibrator: entropy    #", "calibrator: max        #")


def test_a_short_form_is_written_out(recipe: Path) -> None:
    recipe.write_text("name: net\nmodel: {arch: vgg11_bn}\nquantize: ptq\n")
    apply(recipe, ("quantize", "int8", "keep_float"), ["features.0"])
    assert load_recipe(recipe).quantize.int8.keep_float == ("features.0",)


def test_what_would_be_no_recipe_is_not_written(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="calibrator"):
        apply(recipe, ("quantize", "calibrator"), "wrong")
    assert recipe.read_text() == TEXT and [p.name for p in recipe.parent.iterdir()] == ["net.yaml"]


def test_a_recipe_whose_quantize_section_changed_since_is_refused(recipe: Path) -> None:
    built = load_recipe(recipe).model_dump(mode="json")
    check_unchanged(recipe, built)
    recipe.write_text(TEXT.replace("entropy", "mse"))
    with pytest.raises(RecipeError, match="quantize.calibrator is not what the build was made with"):
        check_unchanged(recipe, built)


def test_another_recipe_is_refused(recipe: Path) -> None:
    built = load_recipe(recipe).model_dump(mode="json") | {"name": "other"}
    with pytest.raises(RecipeError, match="is the recipe 'net', but the build was made from 'other'"):
        check_unchanged(recipe, built)


def test_an_edit_that_an_anchor_carries_into_another_section_is_refused(recipe: Path) -> None:
    shared = TEXT.replace("engines:", "  int8: &s {keep_float: []}\n  int4: *s\nengines:")
    recipe.write_text(shared)
    with pytest.raises(RecipeError, match="would also change quantize.int4.keep_float"):
        apply(recipe, ("quantize", "int8", "keep_float"), ["features.0"])
    assert recipe.read_text() == shared and [p.name for p in recipe.parent.iterdir()] == ["net.yaml"]


def test_names_that_yaml_reads_as_something_else_are_quoted(recipe: Path) -> None:
    apply(recipe, ("quantize", "int8", "keep_float"), ["no", "1.5", "features.0"])
    assert '["no", "1.5", features.0]' in recipe.read_text()
    assert load_recipe(recipe).quantize.int8.keep_float == ("no", "1.5", "features.0")

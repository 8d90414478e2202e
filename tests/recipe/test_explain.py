"""Where a mistake belongs elsewhere, or leaves something out, the sentence says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe


def complaint(folder: Path, *overrides: str, more: str = "") -> str:
    (folder / "r.yaml").write_text("name: a\nmodel: {arch: vgg11}\n" + more)
    with pytest.raises(RecipeError) as told:
        load_recipe(folder / "r.yaml", overrides)
    return str(told.value)


@pytest.mark.parametrize(("override", "ending"), [
    ("train.lr=0.1", "did you mean 'train.optimizer.lr'?"),
    ("train.epoch=3", "did you mean 'epochs'?"),  # spelling comes first
    ("model.rounds_per=3", "expected arch, form, weights, width"),  # nowhere
])
def test_a_key_that_another_section_has_is_looked_for_there(override: str, ending: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, override).endswith(ending)


def test_an_entry_of_a_list_that_the_recipe_leaves_out_is_told_as_that(tmp_path: Path) -> None:
    assert complaint(tmp_path, "engines.0.precision=int8") == (
        "--set engines.0.precision=int8: the recipe has no list engines, so no entry 0; give the whole list, as in "
        "--set 'engines=[{runtime: onnxruntime, precision: int8}]'")


def test_an_index_in_brackets_is_told_how_to_write_it(tmp_path: Path) -> None:
    assert complaint(tmp_path, "engines[0].precision=int8").endswith("by dots: --set engines.0.precision=int8")


@pytest.mark.parametrize(("override", "ending"), [
    ("quantize.mixed.layers.nope=fp16", "quantize.mixed: found {'layers': {'nope': 'fp16'}}, which lacks the key 'policy': "
                                        "uniform, simple, adaptive or budget"),
    ("engines=[{precision: int8}]", "lacks the key 'runtime': onnxruntime, tensorrt_rtx, tensorrt or openvino"),
])
def test_a_choice_left_out_names_the_choices_and_the_override(override: str, ending: str, tmp_path: Path) -> None:
    told = complaint(tmp_path, override, more="quantize: {method: ptq}\n")
    assert told.startswith(f"--set {override}: ") and told.endswith(ending)


@pytest.mark.parametrize("override", ["seed=true", "train.optimizer.lr=yes", "measure.throughput_batches=[1, true]",
                                      "limits.int8.top1=off", "data.mean=[true, 0, 0]", "measure.threads=true"])
def test_true_is_no_number(override: str, tmp_path: Path) -> None:
    assert "found 'true'" in complaint(tmp_path, override) or "found 'false'" in complaint(tmp_path, override)


def test_a_whole_number_is_a_number_and_true_a_boolean(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: a\nmodel: {arch: vgg11, width: 1}\nlimits: {faster: true}\ntrain: {optimizer: {method: sgd, lr: 1e-3}}\n")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.model.width, recipe.limits.faster, recipe.train.optimizer.lr) == (1.0, True, 0.001)

"""The `repair` field: short forms, and mistakes named."""

from pathlib import Path

import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe


def repair(folder: Path, text: str):
    path = folder / "recipe.yaml"
    path.write_text(f"name: a\nmodel: {{arch: vgg11_bn}}\nquantize:\n  method: ptq\n  repair: {text}\n")
    return load_recipe(path).quantize.repair


def test_names_alone_stand_for_methods_with_their_defaults(tmp_path: Path) -> None:
    assert repair(tmp_path, "auto").method == "auto" and repair(tmp_path, "null") is None
    assert [cfg.method for cfg in repair(tmp_path, "[bias_correction, {method: smoothquant, alpha: 0.7}]")] == [
        "bias_correction", "smoothquant"]
    assert repair(tmp_path, "adaround") == repair(tmp_path, "[{method: adaround}]")


@pytest.mark.parametrize("text, expected", [
    ("[]", "quantize.repair: the list is empty; name a method"),
    ("adarond", "found 'adarond', expected auto, cross_layer_equalization, bias_correction, smoothquant, adaround, did you mean 'adaround'?"),
    ("aut", "quantize.repair: method: found 'aut', expected auto, cross_layer_equalization, bias_correction, smoothquant, adaround, did you mean 'auto'?"),
    ("[auto, adaround]", "auto chooses among all methods, so it stands alone: write repair: auto"),
    ("{iterations: 3}", "which lacks the key 'method'"),
    ("[adaround, adaround]", "adaround stands in the list twice; remove one"),
    ("[{method: smoothquant, alpha: 2}]", "alpha: found 2: input should be less than or equal to 1"),
    ("3", "found 3, expected a list"), ("[{method: adaround, step: 1}]", "unknown key"),
])
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecipeError) as told:
        repair(tmp_path, text)
    assert expected in str(told.value) and len(str(told.value).splitlines()) == 1

"""What engines start from: names that no layer has are refused by the recipe's own field."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.schema import Recipe
from toolchain.steps.quantizing import quantized

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
net (float[n,8] x) => (float[n,4] y) {
  a = Gemm <transB = 1> (x, stem)
  y = Gemm <transB = 1> (a, head)
}"""


@pytest.mark.parametrize("section", ["int8", "int4"])
def test_a_layer_that_the_users_own_network_lacks_is_told_by_field_value_and_nearest_name(tmp_path, section):
    model = onnx.parser.parse_model(TEXT)
    for name, shape in {"stem.weight": (8, 8), "head.weight": (4, 8)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
        model.graph.node[len(model.graph.initializer) - 1].input[1] = name
    onnx.save(model, tmp_path / "model.onnx")
    recipe = Recipe.model_validate({"name": "own", "model": {"onnx": "own.onnx"},
                                    "quantize": {"method": "ptq", section: {"keep_float": ["stem", "haed"]}}})
    with pytest.raises(RecipeError) as told:
        quantized(SimpleNamespace(recipe=recipe), SimpleNamespace(folder=tmp_path), None, {"int8"})  # type: ignore[arg-type]
    assert str(told.value) == (f"quantize.{section}.keep_float: found 'haed', expected names of layers (stem, head), "
                               "did you mean 'head'?")

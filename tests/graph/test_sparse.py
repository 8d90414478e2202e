from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.graph.sparse import is_24, sparse_layers


def test_two_of_four_along_the_axis_and_no_other() -> None:
    weight = np.zeros((8, 4, 3, 3), np.float32)
    weight[:, 1:3] = 1  # two of four input channels everywhere; along the outputs all of four
    assert is_24(weight, 1) and not is_24(weight, 0)
    weight[7, 0, 2, 2] = 1e-30
    assert not is_24(weight, 1)
    assert not is_24(np.zeros((8, 6)), 1)  # fours do not fit
    assert is_24(np.array([[0, 5, 0, 7, 0, 0, 0, 0]]), 1)


def file(folder: Path, form: str, zero_point: int = 0) -> Path:
    """A convolution of 8 x 4 with channels 0 and 1 only, and a dense linear layer, whose input axis is the first."""
    sparse, dense = np.zeros((8, 4, 1, 1), np.float32), np.ones((8, 4), np.float32)
    sparse[:, :2] = 3
    stored = {"w": dense}
    nodes = [helper.make_node("Conv", ["images", "c"], ["a"]), helper.make_node("GlobalAveragePool", ["a"], ["b"]),
             helper.make_node("Flatten", ["b"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["logits"])]
    if form == "float":
        stored["c"] = sparse
    elif form == "int8":
        stored |= {"q": sparse.astype(np.int8), "s": np.ones(8, np.float32), "z": np.full(8, zero_point, np.int8)}
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["c"], axis=0))
    else:
        stored |= {"q": sparse.reshape(8, 4).astype(ml_dtypes.int4), "s": np.ones((8, 1), np.float32),
                   "shape": np.array([8, 4, 1, 1])}
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["flat"], axis=1, block_size=4))
        nodes.insert(1, helper.make_node("Reshape", ["flat", "shape"], ["c"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 4, 5, 5])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("form", ["float", "int8", "int4"])
def test_layers_are_counted_in_the_file_also_where_codes_are_stored(tmp_path, form: str) -> None:
    assert sparse_layers(file(tmp_path, form)) == (1, 2)


def test_a_code_of_zero_is_no_zero_where_the_zero_point_is_another(tmp_path) -> None:
    assert sparse_layers(file(tmp_path, "int8", zero_point=1)) == (0, 1)

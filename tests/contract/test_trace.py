"""Reading a graph costs work in proportion to its size, whatever its branches."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.blame.align import align
from toolchain.contract.engine_file import read_file


def branching(path, steps):
    """A convolution, `steps` times Split, Concat and an Add of both, a product of two live tensors, a linear layer."""
    nodes = [helper.make_node("Conv", ["images", "conv.weight"], ["x0"], "conv")]
    for i in range(steps):
        nodes += [helper.make_node("Split", [f"x{i}"], [f"a{i}", f"b{i}"], f"split{i}", axis=1, num_outputs=2),
                  helper.make_node("Concat", [f"b{i}", f"a{i}"], [f"c{i}"], f"concat{i}", axis=1),
                  helper.make_node("Add", [f"c{i}", f"x{i}"], [f"x{i + 1}"], f"add{i}")]
    last = f"x{steps}"
    nodes += [helper.make_node("MatMul", [last, last], ["square"], "attention"),
              helper.make_node("Flatten", ["square"], ["flat"], "flatten"),
              helper.make_node("Gemm", ["flat", "head.weight"], ["logits"], "head", transB=1)]
    weights = {"conv.weight": np.ones((4, 3, 1, 1), np.float32), "head.weight": np.ones((5, 16), np.float32)}
    graph = helper.make_graph(
        nodes, "branching", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def calls(work):
    """How many Python functions `work` called; gives up at a million."""
    found = 0

    def count(frame, event, argument):
        nonlocal found
        found += event == "call"
        if found > 1_000_000:
            raise RecursionError("a million calls")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("read", [read_file, lambda path: align(path, path)], ids=["contract", "blame"])
def test_a_graph_of_four_times_as_many_branches_is_read_with_about_four_times_the_work(tmp_path, read):
    few, many = (branching(tmp_path / f"{steps}.onnx", steps) for steps in (10, 40))
    read(few)  # imports
    assert calls(lambda: read(many)) < 5 * calls(lambda: read(few))


def test_layers_behind_branches_are_found_and_a_product_of_live_tensors_is_none(tmp_path):
    found = read_file(branching(tmp_path / "net.onnx", 40))
    assert [layer.names[0] for layer in found.layers] == ["conv", "head"] and found.joins == ()

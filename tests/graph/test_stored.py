"""Weights decoded from what a file stores, worked by hand."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from toolchain.graph.stored import constants, decoded


def test_codes_are_decoded_with_their_channels_scales_and_a_weight_made_of_the_images_is_none():
    codes, scale = np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 0.25], np.float32)
    nodes = [helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=0), helper.make_node("Relu", ["x"], ["live"]),
             helper.make_node("MatMul", ["live", "w"], ["y"])]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "net", told[:1], told[1:], [
        numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scale, "scale")]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    np.testing.assert_array_equal(decoded(model, ["w", "scale"])["w"], [[0.5, -1], [0.75, 1]])
    live, weight = next(node for node in model.graph if node.op_type == "MatMul").inputs
    assert [value.name for value in constants(weight)[1]] == ["codes", "scale"]
    assert constants(live)[1] == []

"""True storage of GPFQ's codes: a sum that can be done by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolchain.steps.quantized_facts import packed_bytes


def test_packed_bytes_are_codes_scales_and_the_floats_that_are_not_coded(tmp_path):
    stored = [numpy_helper.from_array(np.ones((10, 20), np.float32), "w"), numpy_helper.from_array(np.ones(10, np.float32), "b")]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "model.onnx")
    # 200 codes of 3 bits: 75 bytes; one scale of 4 bytes a channel: 40; the bias as floats: 40
    assert packed_bytes(tmp_path / "model.onnx", {"packed_bytes": 75 + 40, "float_bytes": 800}) == 155

"""Weight bytes counted by hand."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from toolchain.graph.edit import add_initializer, insert
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.graph.storage import weight_bytes


def test_every_type_counts_as_stored(parse, tmp_path):
    path = parse("net (float[n,3] x) => (float[n,3] y) { y = Add(x, b) }", b=np.ones(3, np.float32))  # 12 bytes
    model = read_onnx(path)
    codes = add_initializer(model.graph, "codes", np.ones((3, 3), ml_dtypes.int4))  # 9 codes in 5 bytes
    scale = add_initializer(model.graph, "scale", np.ones((3, 1), np.float32))  # 12 bytes
    float_codes = insert(model.graph, None, "DequantizeLinear", [codes, scale], "w", axis=1, block_size=3)
    product = insert(model.graph, None, "MatMul", [model.graph.outputs[0], float_codes], "z")
    product.type, product.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 3])
    model.graph.outputs[0] = product
    write_onnx(model, tmp_path / "int4.onnx")
    assert weight_bytes(path) == 12
    assert weight_bytes(tmp_path / "int4.onnx") == 12 + 5 + 12

"""Which layers there are, what they cost, and which tensors calibration must watch."""

import numpy as np
import onnx_ir.passes.common as passes

from toolchain.graph.layers import layers, quantizable_tensors
from toolchain.graph.onnx_file import read_onnx

NET = """
net (float[n,3,8,8] x) => (float[n,5] y) {
  a = Conv <strides = [2,2], pads = [1,1,1,1]> (x, stem_weight)
  r = Relu(a)
  b = Conv <pads = [1,1,1,1]> (r, body_weight)
  s = Add(b, r)
  p = MaxPool <kernel_shape = [4,4]> (s)
  c = Concat <axis = 1> (p, p)
  shifted = Add(c, one)
  f = Flatten(shifted)
  y = Gemm <transB = 1> (f, head_weight, bias)
}
"""


def graph(parse):
    names = {"stem_weight": np.zeros((4, 3, 3, 3)), "body_weight": np.zeros((4, 4, 3, 3)), "one": np.ones(1),
             "head_weight": np.zeros((5, 8)), "bias": np.zeros(5)}
    model = read_onnx(parse(NET, **{key: value.astype(np.float32) for key, value in names.items()}))
    for value in list(model.graph.initializers.values()):
        value.name = value.name.replace("_weight", ".weight")
    passes.ShapeInferencePass()(model)
    return model.graph


def test_layers_have_their_modules_names_and_macs_worked_by_hand(parse):
    found = [(layer.name, layer.op, layer.axis, layer.macs) for layer in layers(graph(parse))]
    # stem: 4x3x3x3 weights at 4x4 places; body: 4x4x3x3 at 4x4; head: 5x8
    assert found == [("stem", "Conv", 0, 108 * 16), ("body", "Conv", 0, 144 * 16), ("head", "Gemm", 0, 40)]


def test_inputs_of_layers_residual_adds_pools_and_concats_are_watched_once_each(parse):
    assert quantizable_tensors(graph(parse)) == ["x", "r", "b", "s", "p", "f"]


def test_a_scaled_gemm_and_a_matmul_of_two_activations_are_no_layers(parse):
    text = "net (float[n,2] x) => (float[n,2] y) { g = Gemm <alpha = 0.5> (x, w)  t = Transpose(g)  m = MatMul(x, t)  "\
           "y = MatMul(m, x) }"
    assert layers(read_onnx(parse(text, w=np.eye(2, dtype=np.float32))).graph) == []


def test_what_a_convolution_hands_on_to_other_operators_is_watched_behind_its_own_activation(parse):
    text = ("net (float[n,3,8,8] x) => (float[n,4,8,8] y) { a = Conv <pads = [1,1,1,1]> (x, w)  h = HardSwish(a)  "
            "b = Conv <pads = [1,1,1,1]> (h, v)  r = Relu(b)  g = Sigmoid(r)  y = Mul(r, g) }")
    net = read_onnx(parse(text, w=np.ones((4, 3, 3, 3), np.float32), v=np.ones((4, 4, 3, 3), np.float32))).graph
    assert quantizable_tensors(net) == ["x", "a", "h", "r"]

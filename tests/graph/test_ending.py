"""A network that ends in Softmax gives logits afterwards, and other endings are named."""

import numpy as np
import onnx
import pytest

from toolchain.graph.ending import softmax
from toolchain.graph.own import read_own_onnx

W = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)


def net(ending):
    return f"net (float[n,3,4,4] x) => (float[n,3] y) {{ f = Flatten(x)  m = MatMul(f, w)  {ending} }}"


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("ending", ["y = Softmax<axis = 1>(m)", "s = Softmax<axis = 1>(m)  y = Reshape(s, same)"])
def test_a_final_softmax_is_cut_off_and_the_output_gets_a_name_of_its_own(parse, tmp_path, run_onnx, ending, opset):
    path, out = parse(net(ending), opset=opset, w=W, same=np.int64([-1, 3])), tmp_path / "own.onnx"
    info = read_own_onnx(path, out)
    assert (info["ending"], info["output_name"]) == ("softmax", "logits")
    assert "Softmax" not in {node.op_type for node in onnx.load(out).graph.node}
    logits = run_onnx(out, IMAGES)
    assert logits == pytest.approx(IMAGES.reshape(2, 48) @ W, rel=1e-4)
    assert softmax(logits) == pytest.approx(run_onnx(path, IMAGES), abs=1e-5)


@pytest.mark.parametrize(("ending", "found"), [
    ("y = LogSoftmax<axis = 1>(m)", "logits"),
    ("y = Sigmoid(m)", "sigmoid"),
    ("e = Exp(m)  t = ReduceSum(e, one)  y = Div(e, t)", "probabilities"),
    ("s = Softmax<axis = 0>(m)  y = Reshape(s, same)", "logits"),
])
def test_any_other_ending_stays_as_it_is(parse, tmp_path, run_onnx, ending, found):
    path, out = parse(net(ending), w=W, one=np.int64([1]), same=np.int64([-1, 3])), tmp_path / "own.onnx"
    info = read_own_onnx(path, out)
    assert (info["ending"], info["output_name"]) == (found, "y")
    assert run_onnx(out, IMAGES) == pytest.approx(run_onnx(path, IMAGES), rel=1e-4, abs=1e-6)

"""Cleaning keeps the computation and nothing else."""

import numpy as np
import onnx

from toolchain.graph.clean import clean
from toolchain.graph.onnx_file import read_onnx, write_onnx

NET = """
net (float[n,2] x) => (float[n,2] y) {
  c = Constant <value = float[2] {1.0, 2.0}> ()
  i = Identity(c)
  a = Add(x, i)
  dead = Relu(x)
  y = Relu(a)
}
"""


def test_constants_move_in_and_identities_dead_nodes_and_notes_go(parse, tmp_path, run_onnx):
    path = parse(NET, unused=np.ones(9, np.float32))
    proto = onnx.load(path)
    proto.graph.node[2].metadata_props.add(key="pkg", value="/home/someone/site-packages/torch/nn.py")
    proto.doc_string = proto.graph.doc_string = "from /home/someone"
    proto.metadata_props.add(key="author", value="someone")
    proto.producer_name, proto.producer_version = "pytorch", "2.15"
    onnx.save(proto, path)
    model = read_onnx(path)
    clean(model)
    write_onnx(model, tmp_path / "clean.onnx")
    assert b"someone" not in (tmp_path / "clean.onnx").read_bytes()
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]
    assert len(model.graph.initializers) == 1 and model.producer_name == "toolchain"
    x = np.float32([[-3, 1]])
    assert run_onnx(tmp_path / "clean.onnx", x).tolist() == run_onnx(path, x).tolist() == [[0, 3]]


def test_cleaning_twice_changes_nothing(float_onnx, tmp_path):
    model = read_onnx(float_onnx("resnet18"))
    clean(model)
    write_onnx(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == float_onnx("resnet18").read_bytes()

"""A user's own ONNX: accepted in the forms people have, refused in one clear sentence otherwise."""

import numpy as np
import onnx
import pytest
import torch

from toolchain.errors import OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.own import read_own_onnx


def same_logits(run_onnx, before, after, size, batches=(2,)):
    for batch in batches:
        images = np.random.default_rng(batch).normal(size=(batch, 3, size, size)).astype(np.float32)
        assert run_onnx(after, images) == pytest.approx(run_onnx(before, images), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_torchscript_export_of_opset_13_is_upgraded(torchscript_onnx, tmp_path, run_onnx, name):
    path, out = torchscript_onnx(name), tmp_path / "own.onnx"
    before = path.read_bytes()
    info = read_own_onnx(path, out)
    assert info == {"input_name": "images", "output_name": "logits", "image_size": 32, "num_classes": 10,
                    "batch": "dynamic", "opset": 13, "ending": "logits"}
    assert onnx.load(out).opset_import[0].version == 21
    same_logits(run_onnx, path, out, 32, batches=(1, 2, 5))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_dynamo_export_with_live_batchnorm_is_folded(network, tmp_path, run_onnx, name):
    module, size = network(name)
    path, out = tmp_path / "dynamo.onnx", tmp_path / "own.onnx"
    batch = torch.export.Dim("n")
    torch.onnx.export(module, (torch.zeros(2, 3, size, size),), path, dynamo=True, optimize=False, verbose=False,
                      dynamic_shapes=({0: batch},))  # default opset, external data beside the file
    assert "BatchNormalization" in {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    info = read_own_onnx(path, out)
    ops = [node.op_type for node in onnx.load(out).graph.node]
    assert info["batch"] == "dynamic" and not {"BatchNormalization", "ReduceMean", "Flatten", "Constant"} & set(ops)
    same_logits(run_onnx, path, out, size, batches=(2, 3))


@pytest.mark.parametrize("name", ["vgg", "resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_a_fixed_batch_is_freed_where_that_works(torchscript_onnx, tmp_path, run_onnx, name):
    path, out = torchscript_onnx(name, dynamic=False), tmp_path / "own.onnx"
    info = read_own_onnx(path, out)
    assert info["batch"] == "dynamic"
    same_logits(run_onnx, path, out, info["image_size"])
    assert run_onnx(out, np.zeros((5, 3, info["image_size"], info["image_size"]), np.float32)).shape == (5, 10)


IMAGE = "float[{n},3,4,4] x"
HEAD = "{{ f = Flatten(x)  y = MatMul(f, w) }}"
W = np.ones((48, 2), np.float32)


def test_a_reshape_that_spells_out_the_batch_is_freed(parse, tmp_path):
    path = parse("net (float[2,3,4,4] x) => (float[2,2] y) { f = Reshape(x, s)  y = MatMul(f, w) }", w=W,
                 s=np.int64([2, 48]))
    assert read_own_onnx(path, tmp_path / "own.onnx")["batch"] == "dynamic"


def test_a_batch_that_is_part_of_the_arithmetic_stays_fixed(parse, tmp_path):
    path = parse("net (float[2,3,4,4] x) => (float[2,2] y) { f = Flatten(x)  g = MatMul(f, w)  y = Add(g, per_image) }",
                 w=W, per_image=np.float32([[1, 2], [3, 4]]))
    info = read_own_onnx(path, tmp_path / "own.onnx")
    assert info["batch"] == 2
    assert convert(tmp_path / "own.onnx", tmp_path / "half.onnx", "fp16", "tensorrt")["gap"]["relative"] < 1e-2


def test_an_open_image_size_is_fixed_by_the_recipes(parse, tmp_path):
    text = "net (float[n,3,h,w] x) => (float[n,3] y) { p = GlobalAveragePool(x)  y = Flatten(p) }"
    with pytest.raises(OnnxError, match=r"its size is open.*set data\.image_size"):
        read_own_onnx(parse(text), tmp_path / "own.onnx")
    info = read_own_onnx(parse(text), tmp_path / "own.onnx", image_size=16)
    assert info["image_size"] == 16 and info["num_classes"] == 3


REFUSED = {
    "two inputs": ("net (float[n,3,4,4] x, float[n] t) => (float[n,3,4,4] y) { y = Relu(x) }",
                   r"2 inputs \('x', 't'\); expected one"),
    "two outputs": ("net (float[n,3,4,4] x) => (float[n,3,4,4] y, float[n,3,4,4] z) { y = Relu(x) z = Abs(x) }",
                    r"2 outputs \('y', 'z'\)"),
    "rank": ("net (float[n,48] x) => (float[n,48] y) { y = Relu(x) }", r"is \(\?, 48\); expected images \(N, 3, S, S\)"),
    "channels": ("net (float[n,1,4,4] x) => (float[n,1,4,4] y) { y = Relu(x) }", r"expected images \(N, 3, S, S\)"),
    "channels last": ("net (float[n,4,4,3] x) => (float[n,4,4,3] y) { y = Relu(x) }", "channels last.*export it as NCHW"),
    "not square": ("net (float[n,3,4,8] x) => (float[n,3,4,8] y) { y = Relu(x) }", "expected square images"),
    "type": ("net (float16[n,3,4,4] x) => (float16[n,3,4,4] y) { y = Relu(x) }", "is FLOAT16; expected float32"),
    "no logits": ("net (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = Relu(x) }", r"expected float32 logits \(2, K\)"),
    "quantized": ("net (float[n,3,4,4] x) => (uint8[n,3,4,4] y) { y = QuantizeLinear(x, s, z) }",
                  "is already quantized: operator 'QuantizeLinear'"),
    "unknown op": ("net (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = Sparkle(x) }",
                   "unsupported operator 'Sparkle'.*opset 21 has no such operator"),
    "custom op": ("net (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = my.domain.Fuse(x) }",
                  "unsupported operator 'Fuse'.*domain 'my.domain'"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_we_cannot_take_is_refused_in_one_line(parse, tmp_path, why):
    text, message = REFUSED[why]
    initializers = {"s": np.float32(1), "z": np.uint8(0)} if why == "quantized" else {}
    path = parse(text, **initializers)
    if why == "custom op":
        model = onnx.load(path)
        model.opset_import.add(domain="my.domain", version=1)
        onnx.save(model, path)
    with pytest.raises(OnnxError, match=message) as refused:
        read_own_onnx(path, tmp_path / "own.onnx")
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert not (tmp_path / "own.onnx").exists()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 something else"])
def test_a_missing_empty_or_foreign_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "mine.onnx").write_bytes(content)
    with pytest.raises(OnnxError, match=r"mine\.onnx: "):
        read_own_onnx(tmp_path / "mine.onnx", tmp_path / "own.onnx")


def test_our_own_int8_file_is_refused_as_already_quantized(float_onnx, ranges, tmp_path):
    convert(float_onnx("vgg"), tmp_path / "int8.onnx", "int8", "cpu_x86", ranges("vgg"))
    with pytest.raises(OnnxError, match="already quantized"):
        read_own_onnx(tmp_path / "int8.onnx", tmp_path / "own.onnx")


def test_the_users_file_is_never_the_output(float_onnx):
    with pytest.raises(OnnxError, match="your file is only read"):
        read_own_onnx(float_onnx("vgg"), float_onnx("vgg"))

"""Reading refuses what is damaged; writing is whole, checked and repeatable."""

import numpy as np
import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.onnx_file import read_onnx, write_onnx

RELU = "net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OnnxError, match=r"gone\.onnx: no such file"):
        read_onnx(tmp_path / "gone.onnx")


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(OnnxError, match=r"empty\.onnx: the file is empty \(0 bytes\)"):
        read_onnx(tmp_path / "empty.onnx")


@pytest.mark.parametrize("keep", [10, 0.3, 0.9])
def test_a_truncated_file_is_refused(torchscript_onnx, tmp_path, keep):
    whole = torchscript_onnx("vgg").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: keep if keep > 1 else int(len(whole) * keep)])
    with pytest.raises(OnnxError, match=r"cut\.onnx: not an ONNX file, or truncated"):
        read_onnx(tmp_path / "cut.onnx")


def test_a_text_file_is_no_onnx_file(tmp_path):
    (tmp_path / "readme.onnx").write_text("This is not a network.\n" * 9)
    with pytest.raises(OnnxError, match="not an ONNX file, or truncated"):
        read_onnx(tmp_path / "readme.onnx")


def external(tmp_path, parse):
    path = parse("net (float[n,2] x) => (float[n,2] y) { y = MatMul(x, w) }", w=np.float32([[1, 2], [3, 4]]))
    onnx.save(onnx.load(path), tmp_path / "ext.onnx", save_as_external_data=True, location="ext.bin", size_threshold=0)
    return tmp_path / "ext.onnx"


def test_external_data_is_read_in(tmp_path, parse):
    weight = read_onnx(external(tmp_path, parse)).graph.initializers["w"].const_value
    assert weight.numpy().tolist() == [[1, 2], [3, 4]]


def test_missing_external_data_is_named(tmp_path, parse):
    path = external(tmp_path, parse)
    (tmp_path / "ext.bin").unlink()
    with pytest.raises(OnnxError, match="external data"):
        read_onnx(path)


def test_writing_twice_gives_equal_bytes_and_leaves_no_other_file(parse, tmp_path):
    path = parse(RELU)
    write_onnx(read_onnx(path), tmp_path / "a.onnx")
    write_onnx(read_onnx(path), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "net.onnx"]


def test_an_invalid_graph_is_never_written(parse, tmp_path):
    model = read_onnx(parse(RELU))
    next(iter(model.graph)).op_type = "Rleu"
    with pytest.raises(OnnxError, match=r"bad\.onnx: not valid ONNX: .*Rleu"):
        write_onnx(model, tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()

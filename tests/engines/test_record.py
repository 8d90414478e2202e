import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from toolchain.engines.record import describe, engine_name, read_record, verify, write_record
from toolchain.errors import DigestMismatch, EngineError
from toolchain.files import write_bytes

CFG = SimpleNamespace(precision="int8", runtime="onnxruntime", target="cpu_x86")


@pytest.fixture
def folder(tmp_path):
    """A folder with a five-byte engine and its record."""
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "engine.onnx").write_bytes(b"bytes")
    write_record(tmp_path, describe(CFG, tmp_path / "engine.onnx", tmp_path / "model.onnx", {"weight_bytes": 3},
                                    compute="int8", runtime_version="1.0", device="a CPU", layers=[]))
    return tmp_path


def test_the_record_says_what_the_engine_is(folder):
    record = json.loads((folder / "engine.json").read_text())
    assert record["name"] == engine_name(CFG) == "int8.onnxruntime.cpu_x86"
    assert record["sha256"] == hashlib.sha256(b"bytes").hexdigest()
    assert record["onnx_sha256"] == hashlib.sha256(b"onnx").hexdigest()
    assert (record["engine_bytes"], record["weight_bytes"], record["profile"]) == (5, 3, None)


def test_the_record_of_the_same_engine_has_the_same_bytes(folder):
    before = (folder / "engine.json").read_bytes()
    write_record(folder, read_record(folder))
    assert (folder / "engine.json").read_bytes() == before


def test_sparse_layers_stand_in_the_record_only_where_there_are_any(folder):
    assert "sparse" not in json.loads((folder / "engine.json").read_text()) and read_record(folder).sparse is None
    counted = {"layers": 3, "in_file": 2, "eligible": None, "chosen": None}
    write_record(folder, replace(read_record(folder), sparse=counted))
    assert read_record(folder).sparse == counted


def test_a_tampered_engine_is_named_with_both_digests(folder):
    (folder / "engine.onnx").write_bytes(b"bytez")
    with pytest.raises(DigestMismatch) as error:
        verify(folder)
    for part in ("engine.onnx", hashlib.sha256(b"bytez").hexdigest()[:16], hashlib.sha256(b"bytes").hexdigest()[:16], "delete"):
        assert part in str(error.value)


def test_a_missing_engine_file_is_named(folder):
    (folder / "engine.onnx").unlink()
    with pytest.raises(EngineError, match=r"engine\.onnx: the engine file .* is missing"):
        verify(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"\xff\xfe"])
def test_a_damaged_record_is_an_error_of_one_line(folder, content):
    (folder / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match="not a whole engine record") as error:
        read_record(folder)
    assert "\n" not in str(error.value)


def test_what_a_killed_write_left_is_overwritten(tmp_path):
    (tmp_path / ".file.part").write_bytes(b"half")
    write_bytes(tmp_path / "file", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"

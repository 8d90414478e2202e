"""Which files of a finished build blame reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolchain.files import sha256_file
from toolchain.steps import blaming_run


@pytest.mark.parametrize(("engine", "precision", "shown"), [
    ("mixed.onnxruntime.cpu_x86", "mixed", "model.mixed.onnxruntime.cpu_x86.onnx"),  # each mixed engine has a file of its own
    ("int8.onnxruntime.cpu_x86", "int8", "model.int8.cpu_x86.onnx")])
def test_an_engine_is_judged_on_the_file_it_was_built_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, precision: str, shown: str) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "report.json").touch()
    quantized, reference = tmp_path / "onnx" / shown, tmp_path / "onnx" / f"float.{precision}.onnx"
    quantized.write_text("quantized")
    reference.write_text("float")
    (tmp_path / "published.json").write_text(json.dumps({f"onnx/{reference.name}": sha256_file(reference)}))
    result = SimpleNamespace(name=engine, precision=precision, runtime="onnxruntime", sha256="")
    record = SimpleNamespace(sha256="", onnx_sha256=sha256_file(quantized), target="cpu_x86", precision=precision)
    for name, given in (("load_report", SimpleNamespace(engines=[result], recipe={})), ("read_record", record), ("verify", None)):
        monkeypatch.setattr(blaming_run, name, lambda path, given=given: given)
    assert blaming_run.find_run(tmp_path, precision).engine == engine  # the only one whose name begins so
    run = blaming_run.find_run(tmp_path, engine)
    assert (run.quantized, run.reference, run.ranges) == (quantized, reference, None)

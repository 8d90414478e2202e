"""`toolchain blame` on a finished build, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from refusal import refused

from toolchain.cli import main
from toolchain.errors import DigestMismatch
from toolchain.steps.blaming_run import expected_file, find_run


def test_blame_ranks_the_layers_of_a_build_and_keeps_the_alignment(tiny_build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["blame", str(tiny_build), "--images", "16"])
    assert stop.value.code == 0
    found = json.loads((tiny_build / "blame" / "blame.json").read_text())
    assert {"features.0", "classifier"} <= {layer["name"] for layer in found["layers"]}
    assert all(layer["engine_layers"] and layer["nodes"] and layer["fault"] is None for layer in found["layers"])
    assert found["layers"][0]["name"] in capsys.readouterr().out and "features.0" in (tiny_build / "blame" / "blame.md").read_text()


def test_a_float_engine_an_altered_file_and_a_wrong_folder_are_refused(toolchain, tiny_build: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    refused(toolchain("blame", tiny_build, "--engine", "fp32.onnxruntime.cpu_x86"), 2, "is float, so no layer is to blame")
    refused(toolchain("blame", tiny_build, "--engine", "fp32"), 2, "engine fp32 is float, so no layer is to blame")
    refused(toolchain("blame", tmp_path / "none"), 2, "no such folder")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_build, copy, ignore=shutil.ignore_patterns("stages"))
    ranges = copy / "ranges" / "int8.json"
    ranges.write_bytes(ranges.read_bytes().replace(b"max on", b"mse on"))
    with pytest.raises(DigestMismatch, match=r"int8\.json: SHA-256 .* the file was altered"):
        find_run(copy)
    ranges.unlink()
    assert expected_file(find_run(copy), tmp_path / "expected.onnx") is None  # a build of an older version shows none
    engine = copy / "engines" / "int8.onnxruntime.cpu_x86" / "engine.onnx"
    engine.write_bytes(engine.read_bytes() + b"x")
    refused(toolchain("blame", copy), 8, "was altered")

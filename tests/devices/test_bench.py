"""Files timed on a device, brought back and told as those that are timed here."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import yaml
from bundles import RECORD
from live_bundle import TARGET, write_onnx
from ssh_line import Line
from ssh_place import SSHD, Place, started

from toolchain.cli import main
from toolchain.devices.file import Device

QUICK = ["--rounds", "3", "--runs", "4", "--warmup", "1", "--attempts", "1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server is enough here: what differs between the two is tested beside the transport and deploy."""
    with started("openssh" if SSHD else "asyncssh", tmp_path_factory.mktemp("server")) as place:
        yield place


@pytest.fixture
def bench(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two ONNX files and devices.yaml, which is the current one."""
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"orin": device.model_dump(exclude_none=True)}))
    write_onnx(tmp_path / "a.onnx")
    write_onnx(tmp_path / "b.onnx", wide=4 << 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def engine(folder: Path, **others: str) -> Path:
    """An engine's folder, as a build leaves it."""
    folder.mkdir()
    content = write_onnx(folder / "engine.onnx").read_bytes()
    record = {**RECORD, "runtime_version": onnxruntime.__version__, "target": TARGET, "engine_bytes": len(content),
              "sha256": hashlib.sha256(content).hexdigest(), **others}
    (folder / "engine.json").write_text(json.dumps(record))
    return folder


def test_files_and_engines_are_timed_there(bench: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    engine(bench / "mine")
    assert command("bench", "a.onnx", "b.onnx", "mine", "--on", "orin", *QUICK, "--json", "out.json", "--batch", "2") == 0
    assert "a.onnx" in capsys.readouterr().out
    told = json.loads((bench / "out.json").read_text())
    assert told["device"] == "orin" and told["environment"]["runtimes"] == {"onnxruntime": onnxruntime.__version__}
    assert [row["name"] for row in told["rows"]] == ["a.onnx", "b.onnx", "mine"]
    for row in told["rows"]:
        assert row["input"] == [2, 3, 2, 2] and row["latency_ms"]["n"] == 12 and row["latency_ms"]["p50"] > 0
        assert row["runtime"] == "onnxruntime" and row["validity"]["verdict"] in ("valid", "inconclusive")
    assert [bool(row["ratio"]) for row in told["rows"]] == [False, True, True]
    assert told["rows"][2]["sha256"] == hashlib.sha256((bench / "a.onnx").read_bytes()).hexdigest()
    assert list((Path(device.folder) / "runs").iterdir()) == []  # what was brought back is not left there


def test_a_file_is_sent_once(bench: Path, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", "b.onnx", "--on", "orin", *QUICK) == 0
    sent = line.sent
    assert sent > 4 << 20
    assert command("bench", "b.onnx", "--on", "orin", *QUICK) == 0
    assert line.sent - sent < 1 << 20


def test_an_engine_that_is_not_for_the_device_is_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine(bench / "theirs", runtime="tensorrt", target="sm87", runtime_version="10.3.0")
    assert command("bench", "theirs", "--on", "orin", *QUICK) == 6
    assert "orin: theirs: " in capsys.readouterr().err


def test_a_runtime_that_the_device_lacks_is_named(bench: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "devices.yaml").write_text(yaml.safe_dump({"orin": {**device.model_dump(exclude_none=True), "runtime": "tensorrt"}}))
    assert command("bench", "a.onnx", "--on", "orin", *QUICK) == 14
    assert "orin: tensorrt is not installed there (found onnxruntime)" in capsys.readouterr().err


def test_a_file_that_cannot_be_opened_there_says_which(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "junk.onnx").write_bytes(b"no network")
    assert command("bench", "junk.onnx", "--on", "orin", *QUICK) == 14
    assert re.search(r"orin: junk\.onnx: ONNX Runtime \S+ refuses it", capsys.readouterr().err)

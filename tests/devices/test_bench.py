"""Files timed on a device, brought back and told as those that are timed here."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import yaml
from bundles import RECORD
from live_bundle import TARGET, write_onnx
from ssh_line import Line, cut_after, waiting
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


def test_a_line_that_is_lost_while_it_times_says_that_the_same_command_times_anew(
    bench: Path, line: Line, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, mark = waiting(device, bench, "bench")
    (bench / "devices.yaml").write_text(yaml.safe_dump({"orin": slow.model_dump(exclude_none=True)}))

    def lose() -> None:
        line.whole = False
        line.cut()

    cut_after(mark, SimpleNamespace(cut=lose))  # type: ignore[arg-type]
    assert command("bench", "b.onnx", "--on", "orin", *QUICK) == 14
    told = capsys.readouterr().err
    assert "did not come back in 6 tries" in told and "from where it stopped" not in told
    assert "; the same command times anew; what was sent is not sent again" in told
    line.whole, sent = True, line.sent
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


def test_a_file_that_cannot_be_opened_there_says_which_and_leaves_nothing(
    bench: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench / "junk.onnx").write_bytes(b"no network")
    assert command("bench", "junk.onnx", "--on", "orin", *QUICK) == 14
    assert re.search(r"orin: junk\.onnx: ONNX Runtime \S+ refuses it", capsys.readouterr().err)
    assert list((Path(device.folder) / "runs").iterdir()) == []


def test_an_engine_of_a_later_onnxruntime_is_timed_there_if_it_opens(bench: Path) -> None:
    engine(bench / "newer", runtime_version="99.1.0")
    assert command("bench", "newer", "--on", "orin", *QUICK) == 0


def test_of_a_build_what_the_device_cannot_run_is_left_out(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "run" / "engines").mkdir(parents=True)
    engine(bench / "run" / "engines" / "fp32.mine")
    engine(bench / "run" / "engines" / "int8.theirs", runtime="tensorrt", target="sm87", runtime_version="10.3.0")
    assert command("bench", "run", "--on", "orin", *QUICK, "--json", "out.json") == 0
    assert "orin: left out: run:int8.theirs: is not for this device: it runs in tensorrt" in capsys.readouterr().err
    assert [row["name"] for row in json.loads((bench / "out.json").read_text())["rows"]] == ["run:fp32.mine"]
    junk = engine(bench / "run" / "engines" / "int4.mine", sha256=hashlib.sha256(b"junk").hexdigest())
    (junk / "engine.onnx").write_bytes(b"junk")
    assert command("bench", "run", "--on", "orin", *QUICK, "--json", "out.json") == 0  # as one that its version is too old for
    assert re.search(r"orin: left out: run:int4\.mine: engine\.onnx: ONNX Runtime \S+ refuses it", capsys.readouterr().err)
    assert [row["name"] for row in json.loads((bench / "out.json").read_text())["rows"]] == ["run:fp32.mine"]
    shutil.rmtree(bench / "run" / "engines" / "int4.mine")
    shutil.rmtree(bench / "run" / "engines" / "fp32.mine")
    assert command("bench", "run", "--on", "orin", *QUICK) == 6
    assert "orin: none of these engines can run there: run:int8.theirs: " in capsys.readouterr().err


def test_the_runtime_of_onnx_files_can_be_chosen_and_is_shown(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", "a.onnx", "--on", "orin", "--runtime", "openvino", *QUICK) == 2
    assert "found 'openvino', but on a device ONNX files are run by onnxruntime or tensorrt" in capsys.readouterr().err
    assert command("bench", "a.onnx", "--on", "orin", "--runtime", "tensorrt", *QUICK) == 14
    assert "orin: tensorrt is not installed there (found onnxruntime); mend --runtime" in capsys.readouterr().err
    assert command("bench", "a.onnx", "--on", "orin", "--runtime", "onnxruntime", *QUICK) == 0
    told = capsys.readouterr().out
    assert "runtime" in told.splitlines()[0] and re.search(r"a\.onnx +onnxruntime ", told)


def test_more_threads_than_the_device_has_cores_are_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", "a.onnx", "--on", "orin", "--threads", "5000", *QUICK) == 2
    assert "--threads: found 5000, but orin has " in capsys.readouterr().err


def test_several_devices_have_a_table_each_and_one_that_fails_stops_no_other(
    bench: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: device.model_dump(exclude_none=True) for name in ("orin", "nano")}
    (bench / "devices.yaml").write_text(yaml.safe_dump({**known, "gone": {**known["nano"], "python": "/no/python"}}))
    assert command("bench", "a.onnx", "--on", "orin", "--on", "nano", *QUICK, "--json", "out.json") == 0
    told = capsys.readouterr().out
    assert told.count("a.onnx") == 2 and "on orin (" in told and "on nano (" in told
    assert [one["device"] for one in json.loads((bench / "out.json").read_text())["devices"]] == ["orin", "nano"]
    assert command("bench", "a.onnx", "--on", "gone", "--on", "orin", *QUICK) == 14
    shown = capsys.readouterr()
    assert "on orin (" in shown.out and "1 of 2 devices failed" in shown.err and "gone: there is no program" in shown.err


def test_an_interrupted_bench_ends_on_all_devices_and_leaves_nothing(bench: Path, device: Device) -> None:
    both = {name: device.model_copy(update={"folder": f"{device.folder}-{name}"}) for name in ("orin", "nano")}
    (bench / "devices.yaml").write_text(yaml.safe_dump({name: one.model_dump(exclude_none=True) for name, one in both.items()}))
    asked = subprocess.Popen(
        [sys.executable, "-m", "toolchain", "bench", "a.onnx", "--on", "orin", "--on", "nano", "--rounds", "100000", "--runs", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = [Path(one.folder) / "runs" for one in both.values()]
    for _ in range(6000):
        pids = [int(told) for folder in runs for path in folder.glob("*/bench.pid") if (told := path.read_text())]
        if len(pids) == 2:
            break
        assert asked.poll() is None
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, 0)  # it is at work
    asked.send_signal(signal.SIGINT)
    _, told = asked.communicate(timeout=60)
    assert asked.returncode == 130 and "Traceback" not in told
    for name in both:
        assert f"{name}: its bench is stopped, and nothing of it is left there" in told
    assert "run the same command again from its start" in told
    assert [list(folder.iterdir()) for folder in runs] == [[], []]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            for _ in range(6000):  # until its parent has heard of it
                os.kill(pid, 0)
                time.sleep(0.01)

"""`build --on`: engines built, proven, judged and timed on devices, brought back and reported."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from device_shop import Near, command
from onnx import TensorProto, helper, numpy_helper
from ssh_line import Line, cut_after, waiting
from ssh_place import SSHD, Place, started

from toolchain import console
from toolchain.cli import main
from toolchain.devices import building, many
from toolchain.devices.file import Device
from toolchain.devices.fit import unfit
from toolchain.devices.remote import ask
from toolchain.devices.transport import Link
from toolchain.errors import DeviceError
from toolchain.files import sha256_file
from toolchain.recipe.deploy import OpenVinoEngine, OrtEngine, RtxEngine
from toolchain.report.devices import DeviceResult
from toolchain.steps.on_devices import wrong

RECIPE = """\
name: tiny
data: {source: digits}
model: {onnx: net.onnx}
quantize: {method: ptq, calibrator: max, calibration: {images: 32}}
measure: {warmup: 1, rounds: 3, runs_per_round: 3, throughput_batches: [1], attempts: 1}
engines:
  - {runtime: onnxruntime, precision: fp32}
  - {runtime: onnxruntime, precision: int8}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server is enough here: what differs between the two is tested beside the transport and deploy."""
    with started("openssh" if SSHD else "asyncssh", tmp_path_factory.mktemp("server")) as place:
        yield place


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished stages of the recipe, shared by the builds below."""
    return tmp_path_factory.mktemp("cache")


def net(size: int = 32, classes: int = 10) -> bytes:
    """Two layers with fixed weights: what it answers does not matter, only that it answers alike."""
    rng = np.random.default_rng(0)
    made = {"kernel": rng.standard_normal((8, 3, 3, 3)), "matrix": rng.standard_normal((8, classes))}
    nodes = [helper.make_node("Conv", ["images", "kernel"], ["seen"], strides=[2, 2]), helper.make_node("Relu", ["seen"], ["lit"]),
             helper.make_node("GlobalAveragePool", ["lit"], ["means"]), helper.make_node("Flatten", ["means"], ["flat"]),
             helper.make_node("MatMul", ["flat", "matrix"], ["logits"])]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in made.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def built(folder: Path, cache: Path, *on: str, recipe: str = RECIPE, more: tuple[str, ...] = (), **devices: Device) -> int:
    """The exit code of `toolchain build`, in `folder`/run."""
    (folder / "tiny.yaml").write_text(recipe)
    (folder / "net.onnx").write_bytes(net())
    (folder / "devices.yaml").write_text(yaml.safe_dump({name: one.model_dump(exclude_none=True) for name, one in devices.items()}))
    words = ["build", folder / "tiny.yaml", "--out", folder / "run", "--cache", cache, "--devices", folder / "devices.yaml", "-q"]
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), *(word for name in on for word in ("--on", name)), *more])
    return int(stop.value.code or 0)


def test_engines_are_built_judged_and_timed_there_although_the_line_is_cut(
    line: Line, device: Device, second: Callable[[], tuple[Line, Device]], tmp_path: Path, cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow, mark = waiting(device, tmp_path, "build")
    cut_after(mark, line)
    dead, gone = second()
    dead.whole = False
    assert built(tmp_path, cache, "orin", "gone", orin=slow, gone=gone) == 14
    told = capsys.readouterr()
    assert "1 of 2 devices failed" in told.err and "gone: " in told.err and "On devices" in told.out
    assert line.connections == 3  # asked first; built there; gone on with after the cut
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    orin, lost = report["devices"]
    assert lost["name"] == "gone" and lost["reason"] and lost["engines"] == []
    here = {engine["name"]: engine for engine in report["engines"]}
    assert [engine["name"] for engine in orin["engines"]] == list(here)
    for engine in orin["engines"]:
        folder = tmp_path / "run" / "devices" / "orin" / "engines" / engine["name"]
        record = json.loads((folder / "engine.json").read_text())
        assert sha256_file(folder / record["engine"]) == engine["sha256"] == record["sha256"]
        assert engine["built"] and engine["golden_held"] and engine["latency_ms"]["n"] == 9
        assert engine["top1_percent"] == pytest.approx(here[engine["name"]]["top1_percent"], abs=0.5)
    with np.load(tmp_path / "run" / "predictions.npz") as mine, np.load(tmp_path / "run" / "devices" / "orin" / "predictions.npz") as theirs:
        assert (mine["keys"] == theirs["keys"]).all() and (mine["labels"] == theirs["labels"]).all()
        fp32 = next(name for name in here if name.startswith("fp32"))
        assert (mine[fp32][:, 0] == theirs[fp32][:, 0]).mean() > 0.99
    assert "## On devices" in (tmp_path / "run" / "report.md").read_text()
    assert "<h2>On devices</h2>" in (tmp_path / "run" / "report.html").read_text()
    gate = tmp_path / "run", "--device", "orin"
    assert command("baseline", *gate, "-o", tmp_path / "b.json") == 0
    assert command("check", *gate, "--baseline", tmp_path / "b.json", "--all") == 0
    assert re.search(r"tiny on orin against \S+: pass", capsys.readouterr().out)
    assert command("check", tmp_path / "run", "--device", "gone", "--baseline", tmp_path / "b.json") == 9
    assert "has nothing of gone to judge: " in capsys.readouterr().err
    sent = line.sent
    assert built(tmp_path, cache, "orin", orin=slow) == 0
    assert line.sent - sent < 1 << 20  # images and networks are there
    places = [tmp_path / "run" / "latency.npz", tmp_path / "run" / "devices" / "orin" / "latency.npz"]
    before = [place.read_bytes() for place in places]
    assert built(tmp_path, cache, "orin", orin=slow, more=("--remeasure",)) == 0
    assert all(place.read_bytes() != was for place, was in zip(places, before, strict=True))
    measured = json.loads((tmp_path / "run" / "report.json").read_text())["devices"]
    assert built(tmp_path, cache) == 0  # the same engines, no device asked: what it gave still holds
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["devices"] == measured and measured[0]["machine_settings"] is not None
    capsys.readouterr()
    engine = next((tmp_path / "run" / "devices" / "orin" / "engines").glob("int8*/engine.onnx"))
    for recipe, added, why in ((RECIPE.replace("rounds: 3", "rounds: 4"), b"", "other test images or another way of measuring"),
                               (RECIPE, b"0", "the file was altered")):
        engine.write_bytes(engine.read_bytes() + added)
        assert built(tmp_path, cache, recipe=recipe) == 0
        (left,) = json.loads((tmp_path / "run" / "report.json").read_text())["devices"]
        assert why in left["reason"] and "--on orin" in left["reason"] and left["engines"] == []
        assert " ".join(why.split()) in " ".join(capsys.readouterr().out.split())


def test_an_engine_that_answers_otherwise_or_is_not_built_there_is_told() -> None:
    engines = [{"name": "fp32", "built": True, "golden_held": True}, {"name": "int8", "built": True, "golden_held": False},
               {"name": "int4", "built": False, "reason": "no kernel"}, {"name": "fp16", "built": True, "golden_held": None}]
    assert wrong(DeviceResult.model_validate({"name": "orin", "engines": engines})) == (
        "int8 does not give its golden answers there; int4 could not be built there: no kernel")
    assert wrong(DeviceResult(name="gone", reason="unreachable")) == ""


def test_a_device_without_a_runtime_for_any_engine_is_told(device: Device, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert built(tmp_path, cache, "orni", orin=device) == 2
    assert "did you mean 'orin'" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.write_text('#!/bin/sh\nexit 127\n')
    bare.chmod(0o755)
    assert built(tmp_path, cache, "orin", orin=device.model_copy(update={"python": str(bare)})) == 14
    told = capsys.readouterr().err
    assert "orin: there is no program" in told and "nothing was built; mend that" in told and not (tmp_path / "run").exists()


def test_of_devices_that_are_asked_first_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def small(link: Near) -> dict[str, object]:
        runtimes = {} if link.name == "bare" else {"onnxruntime": "1.20.0"}
        return {"cores": 2, "python": "3.10.12", "numpy": "1.26", "runtimes": runtimes, "broken": {}, "machine": "aarch64", "sm": 87}

    monkeypatch.setattr(building, "ready", small)
    monkeypatch.setattr(many, "Link", Near)
    monkeypatch.setattr(Near, "python", "python3", raising=False)
    monkeypatch.setattr(console, "_quiet", False)
    orin, bare = Device(host="orin"), Device(host="bare")
    arm = {"int8": OrtEngine(runtime="onnxruntime", precision="int8", target="cpu_arm")}
    building.ask_first({"orin": orin, "bare": bare}, 2, arm)
    assert "bare: has no runtime for python3" in (told := capsys.readouterr().err) and "asks it again at its end" in told
    with pytest.raises(DeviceError, match=r"2 of 2 devices failed:\n  orin: has 2 cores.*\n  bare: has no runtime.*\nnothing was built"):
        building.ask_first({"orin": orin, "bare": bare}, 4, arm)
    others = {"a": OrtEngine(runtime="onnxruntime", precision="int8", target="cpu_x86"), "b": OpenVinoEngine(runtime="openvino", precision="int8")}
    with pytest.raises(DeviceError, match="orin: no engine of this build is for it: a: it is built for cpu_x86, and the device is aarch64; "
                       "b: it runs in openvino, which is not installed there\nnothing was built"):
        building.ask_first({"orin": orin}, 2, others)
    engines = {"a": RtxEngine(runtime="tensorrt_rtx", precision="int8")}
    jetson = {"machine": "aarch64", "sm": 87, "runtimes": {"tensorrt": "10.3.0"}}
    assert unfit(engines, jetson) == {}  # it builds its own
    assert list(unfit(engines, {**jetson, "sm": None})) == ["a"]


def test_two_names_of_one_machine_ask_the_same_there_and_both_get_it(
    device: Device, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert built(tmp_path, cache, "orin", "twin", orin=device, twin=device) == 0, capsys.readouterr().err
    devices = json.loads((tmp_path / "run" / "report.json").read_text())["devices"]
    assert [[engine["sha256"] for engine in one["engines"]] for one in devices] == 2 * [[engine["sha256"] for engine in devices[0]["engines"]]]


def test_results_that_another_command_has_measured_anew_before_they_are_fetched_are_not_mixed(
    device: Device, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch, fetched = Link.fetch, list[str]()

    async def late(link: Link, source: str, target: Path) -> None:
        fetched.append(target.name)
        if fetched.count("latency.npz") == 1 and target.name == "latency.npz":
            run = Path(source).parent
            (run / "bench.json").unlink()
            await ask(link, "bench", str(run / "job.json"))
        await fetch(link, source, target)

    monkeypatch.setattr(Link, "fetch", late)
    assert built(tmp_path, cache, "orin", orin=device) == 0, capsys.readouterr().err
    assert fetched.count("latency.npz") == 2
    (there,) = (Path(device.folder) / "runs").glob("*/bench.json")
    last = json.loads(there.read_text())["engines"]
    (orin,) = json.loads((tmp_path / "run" / "report.json").read_text())["devices"]
    for engine in orin["engines"]:
        told = last[engine["name"]]
        assert engine["latency_ms"]["mean"] == pytest.approx(told["mean"], rel=1e-9)
        assert engine["with_transfers_ms"]["mean"] == told["with_transfers"]["mean"]


def test_more_threads_than_the_device_has_cores_are_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def small(link: object) -> dict[str, object]:
        return {"cores": 2, "python": "3.10.12", "numpy": "1.26", "runtimes": {"onnxruntime": "1.20.0"}}

    monkeypatch.setattr(building, "ready", small)
    judged = building.Judged([], {}, tmp_path / "images.npy", {}, threads=4)
    with pytest.raises(DeviceError, match="nano: has 2 cores, and measure.threads asks for 4"):
        asyncio.run(building.build(SimpleNamespace(name="nano", python="python3"), [], judged, tmp_path))  # type: ignore[arg-type]

"""Bundles on a device: verified, tried, in use, and back again."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
from color_bundle import BEST, NAME, TARGET, color_bundle, pictures, trusting, unpacked

from toolchain.runner import commands
from toolchain.runner.place import Place
from toolchain.runner.trust import key_text
from toolchain.runner.unpacked import own_engine


def call(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> tuple[int, dict, str]:
    """Exit code, the last line's object, and what was said on stderr."""
    said = ["--folder", str(folder), *map(str, words)]
    code = commands.answered(commands._parser(said).parse_args(said))
    shown = capsys.readouterr()
    assert "internal error" not in shown.err and "Traceback" not in shown.err
    lines = shown.out.splitlines()
    return code, json.loads(lines[-1]) if code == 0 else {}, shown.err


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device's folder that trusts the signer."""
    return trusting(tmp_path / "device")


def test_an_installed_bundle_is_in_use_and_the_one_before_stays(device: Path, tmp_path: Path, capsys) -> None:
    one, two = color_bundle(tmp_path / "one"), color_bundle(tmp_path / "two", gain=2.0)
    code, answer, _ = call(capsys, device, "install", one)
    assert (code, answer["slot"], answer["before"], answer["takes"]) == (0, "A", None, "engine")
    assert answer["golden"]["held"] and answer["golden"]["images"] == 6 and answer["golden"]["distance"] < 1e-5
    code, answer, _ = call(capsys, device, "install", two)
    assert (code, answer["slot"], answer["before"], answer["bundle"]) == (0, "B", "A", "colors2")
    assert os.readlink(device / "current") == "slots/B"
    _, status, _ = call(capsys, device, "status")
    assert status["current"] == "B" and [status["slots"][s]["bundle"] for s in "AB"] == ["colors1", "colors2"]
    _, answer, _ = call(capsys, device, "rollback")
    assert (answer["slot"], answer["bundle"]) == ("A", "colors1") and Place(device).current() == "A"
    assert call(capsys, device, "rollback", "--to", "A")[1]["cached"]  # said twice, done once
    assert Place(device).current() == "A"


def test_saying_install_again_changes_nothing(device: Path, tmp_path: Path, capsys) -> None:
    bundle = color_bundle(tmp_path / "one")
    call(capsys, device, "install", bundle)
    code, answer, _ = call(capsys, device, "install", bundle)
    assert (code, answer["slot"], answer["cached"]) == (0, "A", True)
    assert not (device / "slots/B").exists()


class Cut(BaseException):
    """The power goes."""


def test_a_power_cut_at_any_moment_leaves_a_bundle_in_use(device: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    one, two = color_bundle(tmp_path / "one"), color_bundle(tmp_path / "two", gain=2.0)
    call(capsys, device, "install", one)
    call(capsys, device, "install", color_bundle(tmp_path / "zero", gain=3.0))  # so that slot A has to make room
    call(capsys, device, "rollback")
    moments = 0
    while True:
        left = [moments]

        def step(real, *words, left=left, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Cut
            return real(*words, **options)

        with monkeypatch.context() as patched:
            for module, name in ((os, "replace"), (os, "symlink"), (shutil, "rmtree")):
                patched.setattr(module, name, functools.partial(step, getattr(module, name)))
            try:
                said = ["--folder", str(device), "install", str(two)]
                assert commands.answered(commands._parser(said).parse_args(said)) == 0
                break
            except Cut:
                moments += 1
        capsys.readouterr()
        assert call(capsys, device, "golden")[1]["held"] and Place(device).current() == "A"
    assert moments > 20 and call(capsys, device, "status")[1]["slots"]["B"]["bundle"] == "colors2"
    assert sorted(path.name for path in (device / "slots").iterdir()) == ["A", "B"]


def test_a_bundle_that_answers_otherwise_is_not_used(device: Path, tmp_path: Path, capsys) -> None:
    call(capsys, device, "install", color_bundle(tmp_path / "one"))
    code, _, told = call(capsys, device, "install", color_bundle(tmp_path / "two", gain=2.0, golden_gain=3.0))
    assert code == 14 and "does not give its golden answers" in told and "0.333 away, allowed is 0.01" in told
    assert Place(device).current() == "A" and sorted(p.name for p in (device / "slots").iterdir()) == ["A"]


def test_a_bundle_that_is_refused_leaves_nothing(device: Path, tmp_path: Path, capsys) -> None:
    bundle = color_bundle(tmp_path / "one")
    damaged = bytearray(bundle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    bundle.write_bytes(damaged)
    code, _, told = call(capsys, device, "install", bundle)
    assert code == 13 and "was altered" in told and not (device / "current").exists()
    code, _, told = call(capsys, tmp_path / "nobody", "verify", color_bundle(tmp_path / "two"))
    assert code == 13 and "is not trusted here; trusted: none" in told


def test_keys_may_lie_elsewhere(tmp_path: Path, capsys) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.pub").write_text(key_text(BEST))
    code, answer, _ = call(capsys, tmp_path / "d", "verify", color_bundle(tmp_path / "one"), "--keys", tmp_path / "other")
    assert (code, answer["engine"], answer["takes"], answer["key"]) == (0, NAME, "engine", "workshop")


def test_the_slot_in_use_is_never_written_to(device: Path, tmp_path: Path, capsys) -> None:
    call(capsys, device, "install", color_bundle(tmp_path / "one"), "--slot", "B")
    assert Place(device).current() == "B"
    code, _, told = call(capsys, device, "install", color_bundle(tmp_path / "two", gain=2.0), "--slot", "B")
    assert code == 14 and "slot B is in use; install into slot A" in told


def test_what_was_altered_on_the_device_is_told_and_not_gone_back_to(device: Path, tmp_path: Path, capsys) -> None:
    call(capsys, device, "install", color_bundle(tmp_path / "one"))
    call(capsys, device, "install", color_bundle(tmp_path / "two", gain=2.0))
    shutil.copy(device / "slots/B/engine/engine.onnx", device / "slots/A/engine/engine.onnx")
    code, _, told = call(capsys, device, "rollback")
    assert code == 14 and "is not the engine that was installed" in told and Place(device).current() == "B"
    (device / "slots/B/golden.logits.f32").write_bytes(b"")
    code, _, told = call(capsys, device, "golden")
    assert code == 14 and "golden.logits.f32: is not what was installed" in told
    manifest = device / "slots/B/manifest.json"
    manifest.write_text(manifest.read_text().replace("colors2", "colors3"))
    code, _, told = call(capsys, device, "golden", "--slot", "B")
    assert code == 14 and "manifest.json: is not what was installed" in told


def test_there_is_nothing_to_go_back_to_on_a_new_device(device: Path, tmp_path: Path, capsys) -> None:
    assert "no bundle is in use" in call(capsys, device, "rollback")[2]
    assert call(capsys, device, "status")[1]["slots"] == {"A": None, "B": None}
    call(capsys, device, "install", color_bundle(tmp_path / "one"))
    code, _, told = call(capsys, device, "rollback")
    assert code == 14 and "slot B is empty" in told


def test_an_engine_for_another_processor_is_made_anew_from_the_portable_file(device: Path, tmp_path: Path, capsys) -> None:
    other = "cpu_x86" if TARGET == "cpu_arm" else "cpu_arm"
    foreign = {"target": other, "name": f"fp32.onnxruntime.{other}"}
    code, _, told = call(capsys, device, "install", color_bundle(tmp_path / "one", **foreign))
    assert code == 13 and "and the device is" in told
    code, answer, _ = call(capsys, device, "install", color_bundle(tmp_path / "two", portable=True, **foreign))
    assert (code, answer["takes"], answer["engine"]) == (0, "portable", NAME) and answer["golden"]["held"]
    record = json.loads((device / "current/built/engine.json").read_text())
    assert record["target"] == TARGET and record["engine"] == "engine.onnx"


ORIN = {"machine": "aarch64", "sm": 87, "runtimes": {"tensorrt": "10.3.0"}}
PI = {"machine": "aarch64", "sm": None, "runtimes": {"onnxruntime": "1.20.1"}}
BATCH = {"min": 1, "opt": 8, "max": 16}


@pytest.mark.parametrize(("runtime", "target", "here", "name", "batch"), [
    ("tensorrt_rtx", "sm86", ORIN, "int8.tensorrt.local_gpu", BATCH), ("tensorrt", "local_gpu", ORIN, "int8.tensorrt.local_gpu", BATCH),
    ("onnxruntime", "cpu_x86", PI, "int8.onnxruntime.cpu_arm", None),
    ("tensorrt", "local_gpu", PI, "int8.onnxruntime.cpu_arm", None), ("openvino", "cpu_x86", PI, "int8.onnxruntime.cpu_arm", None),
    ("onnxruntime", "cuda", {**ORIN, "runtimes": {"onnxruntime": "1.20.1"}}, "int8.onnxruntime.cuda", None),
    ("tensorrt", "local_gpu", {"machine": "x86_64", "sm": None, "runtimes": {"onnxruntime": "1.20.1", "tensorrt": "10.3.0"}}, "int8.onnxruntime.cpu_x86", None),
])
def test_a_device_makes_the_engine_that_it_can_run(runtime: str, target: str, here: dict, name: str, batch: dict | None) -> None:
    engine = {"precision": "int8", "compute": "int8", "runtime": runtime, "target": target, "profile": BATCH}
    found = own_engine({"engine": engine}, here)
    assert (found["name"], found["batch"]) == (name, batch)


def test_without_golden_answers_the_engine_is_opened_and_run(device: Path, tmp_path: Path, capsys) -> None:
    code, answer, _ = call(capsys, device, "install", color_bundle(tmp_path / "one", golden=False))
    assert (code, answer["golden"]["images"]) == (0, 0)


def test_a_switch_replaces_the_link_in_one_step(device: Path) -> None:
    place = Place(device)
    (device / "slots/A").mkdir(parents=True)
    (device / ".current.new").symlink_to("nowhere")  # left by a power cut
    place.switch("A")
    assert place.current() == "A"
    place.link.unlink()
    place.link.symlink_to("../../etc")
    assert place.current() is None


def test_an_unpacked_bundle_gives_labels_of_images(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = unpacked(color_bundle(tmp_path / "one"), tmp_path / "unpacked")
    monkeypatch.setattr(commands, "HERE", folder)
    for n, image in enumerate(pictures(3, size=9)):
        (tmp_path / f"{n}.ppm").write_bytes(b"P6 # by hand\n9 9\n255\n" + image.tobytes())
    said = [str(tmp_path / f"{n}.ppm") for n in range(3)] + ["--top", "1", "--json"]
    assert commands.answered(commands._parser(said).parse_args(said)) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    assert [one["labels"][0]["label"] for one in found] == ["red", "green", "blue"]
    assert all(len(one["labels"]) == 1 and 0.34 < one["labels"][0]["probability"] <= 1 for one in found)

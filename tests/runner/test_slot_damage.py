"""A slot that is not what it was: found, told, and mended by installing the bundle again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from color_bundle import color_bundle, trusting

from toolchain.runner import commands, slots, unpacked
from toolchain.runner.place import Place


def call(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> tuple[int, dict, str]:
    """Exit code, the last line's object, and what was said on stderr."""
    said = ["--folder", str(folder), *map(str, words)]
    code = commands.answered(commands._parser(said).parse_args(said))
    shown = capsys.readouterr()
    assert "internal error" not in shown.err
    return code, json.loads(shown.out.splitlines()[-1]) if code == 0 else {}, shown.err


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device's folder that trusts the signer, with a bundle in slot A."""
    return trusting(tmp_path / "device")


@pytest.fixture
def bundle(device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """In use in slot A."""
    path = color_bundle(tmp_path / "one")
    assert call(capsys, device, "install", path)[0] == 0
    return path


def test_a_bundle_in_use_that_answers_otherwise_now_is_told_when_it_is_installed_again(
    device: Path, bundle: Path, capsys, monkeypatch
) -> None:
    real = unpacked.replay
    monkeypatch.setattr(slots, "replay", lambda folder: {**real(folder), "held": False, "distance": 4.0})
    code, _, told = call(capsys, device, "install", bundle)
    assert code == 14 and "its logits are 4 away" in told and "slot A has the same bundle in use" in told
    assert Place(device).current() == "A" and [path.name for path in (device / "slots").iterdir()] == ["A"]


@pytest.mark.parametrize("name", ["engine/engine.onnx", "run.py", "runner/ed25519.py", "golden.json", "manifest.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_bundle_in_use_is_mended_by_installing_it_again(
    name: str, gone: bool, device: Path, bundle: Path, capsys
) -> None:
    file = device / "slots/A" / name
    file.write_bytes(file.read_bytes() + b" ")
    if gone:
        file.unlink()
    assert name in call(capsys, device, "status")[1]["slots"]["A"]["damaged"]
    code, _, told = call(capsys, device, "install", bundle, "--slot", "A")
    assert code == 14 and "slot A is in use, and damaged" in told and "install into slot B" in told
    code, answer, _ = call(capsys, device, "install", bundle)
    assert (code, answer["slot"], answer["before"]) == (0, "B", "A") and name in answer["damaged"]
    slots_now = call(capsys, device, "status")[1]["slots"]
    assert slots_now["A"]["damaged"] and slots_now["B"]["damaged"] is None
    code, _, told = call(capsys, device, "rollback")
    assert code == 14 and name in told and Place(device).current() == "B"


def test_a_damaged_engine_that_was_built_on_the_device_is_built_again(device: Path, tmp_path: Path, capsys) -> None:
    path = color_bundle(tmp_path / "own", portable=True, target="sm86", runtime="tensorrt_rtx")
    assert call(capsys, device, "install", path)[1]["takes"] == "portable"
    (device / "slots/A/built/engine.json").write_text("{}")
    assert "built" in call(capsys, device, "status")[1]["slots"]["A"]["damaged"]
    assert call(capsys, device, "install", path)[1]["slot"] == "B"


@pytest.mark.parametrize("lost", ["link", "slot"])
def test_where_none_is_in_use_any_more_the_last_good_bundle_stays_and_is_gone_back_to(
    lost: str, device: Path, bundle: Path, tmp_path: Path, capsys
) -> None:
    two = color_bundle(tmp_path / "two", gain=2.0)
    if lost == "link":
        (device / "current").unlink()
    else:
        call(capsys, device, "install", two)
        shutil.rmtree(device / "slots/B")
    assert Place(device).current() is None
    assert call(capsys, device, "rollback")[1]["slot"] == "A" and Place(device).current() == "A"
    (device / "current").unlink()
    code, answer, _ = call(capsys, device, "install", two)
    assert (code, answer["slot"]) == (0, "B")
    assert call(capsys, device, "status")[1]["slots"]["A"]["bundle"] == "colors1"


def test_a_junk_file_among_the_keys_is_named_with_what_to_do(device: Path, bundle: Path, capsys) -> None:
    (device / "keys/junk.pub").write_text("?")
    code, _, told = call(capsys, device, "install", bundle)
    assert code == 13 and "keys/junk.pub: is no JSON" in told and "no bundle is accepted: delete it" in told


def test_keys_are_listed_and_revoked_by_id_name_or_file(device: Path, bundle: Path, capsys) -> None:
    (device / "keys/junk.pub").write_text("?")
    (device / "keys/twice.pub").write_bytes((device / "keys/workshop.pub").read_bytes())
    listed = call(capsys, device, "keys")[1]["keys"]
    assert [(one["file"], one["name"], bool(one["wrong"])) for one in listed] == [
        ("junk.pub", None, True), ("twice.pub", "workshop", False), ("workshop.pub", "workshop", False)]
    assert [one["file"] for one in call(capsys, device, "keys", "--remove", "junk.pub")[1]["removed"]] == ["junk.pub"]
    answer = call(capsys, device, "keys", "--remove", listed[1]["key_id"])[1]
    assert answer["keys"] == [] and len(answer["removed"]) == 2
    assert [path.name for path in (device / "keys").iterdir()] == [f"{listed[1]['key_id']}.revoked"]  # so that no deploy brings it back
    assert call(capsys, device, "keys", "--remove", listed[1]["key_id"])[1]["removed"] == []  # said twice
    code, _, told = call(capsys, device, "keys", "--remove", listed[1]["key_id"], "workshp")
    assert code == 14 and "no key is called 'workshp', so none was removed; expected the id, name or file" in told
    code, _, told = call(capsys, device, "install", bundle)
    assert code == 13 and "not trusted here; trusted: none; it was revoked here" in told
    (device / "keys" / f"{listed[1]['key_id']}.revoked").unlink()
    assert f"trusted: none; to trust a key, put its .pub file into {device}/keys" in call(capsys, device, "install", bundle)[2]

"""From a bundle to what a device answers with, and back: on real SSH servers, with a device's own Python."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from device_python import device_python
from live_bundle import live_bundle, trusted_folder
from ssh_line import Line, cut_after, waiting

from toolchain.cli import main
from toolchain.devices.file import Device


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who ships: keys that are trusted, and a place for bundles and devices.yaml."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("TOOLCHAIN_KEYS", str(trusted_folder(folder / "keys")))
    monkeypatch.setenv("TOOLCHAIN_DEVICES", str(folder / "devices.yaml"))
    return folder


def listed(shop: Path, **devices: Device) -> None:
    (shop / "devices.yaml").write_text(yaml.safe_dump({name: one.model_dump(exclude_none=True) for name, one in devices.items()}))


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def deployed(device: Device, capsys: pytest.CaptureFixture[str]) -> tuple[str | None, dict[str, str]]:
    """The slot in use there, and the bundle in each slot that has one."""
    capsys.readouterr()
    assert command("device", "probe", "orin", "--json") == 0
    told = json.loads(capsys.readouterr().out)["orin"]["deployed"]
    return told["current"], {slot: one["bundle"] for slot, one in told["slots"].items() if one}


def test_deploy_and_rollback(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    old, new = live_bundle(shop / "old.bundle", "old"), live_bundle(shop / "new.bundle", "new", scale=2.0)
    assert deployed(device, capsys) == (None, {})
    assert command("deploy", old, "orin") == 0
    assert "2 answered alike" in capsys.readouterr().out
    assert deployed(device, capsys) == ("A", {"A": "old"})
    assert command("deploy", new, "orin", "--slot", "B") == 0
    assert deployed(device, capsys) == ("B", {"A": "old", "B": "new"})
    assert command("deploy", new, "orin") == 0  # said again, as after a cut
    assert "was in use already" in capsys.readouterr().out
    assert command("rollback", "orin") == 0
    assert "in use again" in capsys.readouterr().out
    assert deployed(device, capsys) == ("A", {"A": "old", "B": "new"})


def test_probe_tells_people_what_a_device_has(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("device", "probe", "orin") == 0
    told = capsys.readouterr().out
    assert told.startswith("orin\n") and "runtimes  onnxruntime 1." in told and "deployed  nothing" in told


def test_two_devices_at_once_and_one_that_fails_does_not_stop_the_other(
    shop: Path, device: Device, second: Callable[[], tuple[Line, Device]], capsys: pytest.CaptureFixture[str]
) -> None:
    (_, good), (dead, gone) = second(), second()
    dead.whole = False
    listed(shop, orin=device, xavier=good, gone=gone, bare=device.model_copy(update={"python": "/no/python3"}))
    bundle = live_bundle(shop / "a.bundle", "a")
    assert command("deploy", bundle, "orin", "xavier", "gone", "bare") == 14
    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.out.splitlines()[1:]] == [["orin", "A"], ["xavier", "A"], ["gone", "-"], ["bare", "-"]]
    assert "2 of 4 devices failed" in told.err and "gone: " in told.err
    assert "bare: there is no program /no/python3" in told.err
    assert deployed(device, capsys) == ("A", {"A": "a"})


def test_a_line_cut_in_mid_transfer_and_in_mid_install_loses_nothing(
    shop: Path, line: Line, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, mark = waiting(device, shop, "install")
    listed(shop, orin=slow)
    bundle = live_bundle(shop / "wide.bundle", "wide", wide=12 << 20)
    line.cut_at = [line.sent + (8 << 20)]
    cut_after(mark, line)
    assert command("deploy", bundle, "orin") == 0
    told = capsys.readouterr().err
    assert told.count("the connection was cut; again in") == 2 and "goes on at" in told
    assert line.sent < 16 << 20
    before = line.sent
    assert command("deploy", live_bundle(shop / "wide.bundle", "wide", wide=12 << 20), "orin") == 0
    assert line.sent - before < 1 << 20  # the store has it
    assert deployed(device, capsys) == ("A", {"A": "wide"})


def test_what_does_not_answer_as_it_should_is_not_put_into_use(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("deploy", live_bundle(shop / "good.bundle", "good"), "orin") == 0
    assert command("deploy", live_bundle(shop / "bad.bundle", "bad", honest=False), "orin") == 14
    assert "orin: " in capsys.readouterr().err
    current, slots = deployed(device, capsys)
    assert current == "A" and slots["A"] == "good"


def test_a_bundle_that_does_not_hold_here_is_never_sent(shop: Path, line: Line, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    bundle = live_bundle(shop / "a.bundle")
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    assert command("deploy", bundle, "orin") == 13
    assert line.connections == 0
    assert command("deploy", bundle, "orni") == 2 and "did you mean 'orin'" in capsys.readouterr().err
    assert command("deploy", bundle, "orin", "--slot", "C") == 2


def test_an_engine_for_another_device_is_refused_before_it_is_sent(shop: Path, line: Line, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    bundle = live_bundle(shop / "trt.bundle", wide=4 << 20, runtime="tensorrt", target="sm87", runtime_version="10.3.0")
    assert command("deploy", bundle, "orin") == 14
    assert "it runs in tensorrt, which is not installed there" in capsys.readouterr().err
    assert line.sent < 1 << 20


@pytest.mark.parametrize("packages, told", [
    (("numpy",), "has no runtime for .*neither onnxruntime nor tensorrt"), ((), "numpy is not installed for .*name the Python that has it")])
def test_what_is_missing_on_the_device_is_named(
    packages: tuple[str, ...], told: str, shop: Path, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(shop, orin=device.model_copy(update={"python": device_python(tmp_path / "bare", packages)}))
    assert command("deploy", live_bundle(shop / "a.bundle"), "orin") == 14
    assert re.search(told, capsys.readouterr().err)


def test_rollback_where_nothing_was_deployed(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("rollback", "orin") == 14
    assert "orin: nothing is deployed there" in capsys.readouterr().err

"""From a bundle to what a device answers with, and back: on real SSH servers, with a device's own Python."""

from collections.abc import Callable
from pathlib import Path

import pytest
from device_shop import command, deployed, listed
from live_bundle import live_bundle
from ssh_line import Line, cut_after, waiting

from toolchain.devices.file import Device


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


def test_room_is_made_and_what_is_deployed_stays(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    for name in ("old", "new"):
        assert command("deploy", live_bundle(shop / f"{name}.bundle", name), "orin") == 0
    capsys.readouterr()
    assert command("device", "tidy", "orin") == 0 and capsys.readouterr().out.startswith("orin: 0 removed")
    assert command("device", "tidy", "orin", "--days", "0") == 0
    assert capsys.readouterr().out.startswith("orin: 2 removed")  # the two bundles as they came
    assert command("rollback", "orin") == 0
    assert deployed(device, capsys) == ("A", {"A": "old", "B": "new"})


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

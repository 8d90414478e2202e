"""From a bundle to what a device answers with, and back: on real SSH servers, with a device's own Python."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import KEY
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


def test_a_damaged_bundle_in_use_is_told_and_mended_by_deploying_it_again(
    shop: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(shop, orin=device)
    bundle = live_bundle(shop / "a.bundle", "a")
    assert command("deploy", bundle, "orin") == 0
    with open(Path(device.folder) / "slots/A/engine/engine.onnx", "ab") as engine:
        engine.write(b" ")
    capsys.readouterr()
    assert command("device", "probe", "orin") == 0
    assert "damaged   A: " in capsys.readouterr().out
    assert command("deploy", bundle, "orin", "--slot", "A") == 14
    assert "slot A is in use there (a)" in capsys.readouterr().err
    assert command("deploy", bundle, "orin") == 0
    told = capsys.readouterr()
    assert "slot A was damaged (" in told.err and "was in use already" not in told.out
    assert "so until the next deploy there is no earlier version for `toolchain rollback`" in told.err
    assert deployed(device, capsys) == ("B", {"A": "a", "B": "a"})
    (Path(device.folder) / "current").unlink()  # and none is in use any more
    assert command("rollback", "orin") == 0
    assert deployed(device, capsys) == ("B", {"A": "a", "B": "a"})


def test_a_slot_in_use_is_refused_before_anything_is_sent(
    shop: Path, line: Line, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(shop, orin=device)
    assert command("deploy", live_bundle(shop / "a.bundle", "a"), "orin") == 0
    before = line.sent
    assert command("deploy", live_bundle(shop / "wide.bundle", "wide", wide=4 << 20), "orin", "--slot", "a") == 14
    assert "nothing was sent" in capsys.readouterr().err and line.sent - before < 1 << 20


def test_a_key_that_a_device_did_not_know_is_told_and_can_be_revoked(
    shop: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(shop, orin=device)
    bundle = live_bundle(shop / "a.bundle", "a")
    assert command("device", "keys", "orin") == 0 and "trusts no key" in capsys.readouterr().out
    assert command("deploy", bundle, "orin") == 0
    assert "orin: did not know the key workshop" in capsys.readouterr().err
    assert command("deploy", bundle, "orin") == 0
    assert "did not know" not in capsys.readouterr().err
    assert command("device", "keys", "orin") == 0 and f"{KEY.key_id}  workshop" in capsys.readouterr().out
    assert command("device", "keys", "orin", "--remove", "workshop") == 0
    told = capsys.readouterr().out
    assert "orin: workshop is trusted no longer, and `toolchain deploy` does not bring it back\norin: trusts no key" in told
    assert command("deploy", bundle, "orin") == 14
    failed = capsys.readouterr()
    assert "the key workshop" in failed.err and "was revoked there" in failed.err and not failed.out
    assert command("device", "keys", "orin", "--remove", "workshop") == 2
    assert "is trusted by none of orin" in capsys.readouterr().err
    assert command("device", "keys", "orin", "--trust", "workshop") == 0
    assert command("deploy", bundle, "orin") == 0
    assert "did not know" not in capsys.readouterr().err


def test_what_the_device_refuses_is_called_as_it_is_here(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    ahead = shop / "python"
    ahead.write_text(f'#!/bin/sh\nexport PYTHONPATH={shop}/clock\nexec {device.python} "$@"\n')
    ahead.chmod(0o755)
    (shop / "clock").mkdir()
    (shop / "clock" / "sitecustomize.py").write_text(
        "import datetime\nclass Day(datetime.date):\n    @classmethod\n    def today(cls): return cls(2030, 1, 1)\n"
        "datetime.date = Day\n")
    listed(shop, orin=device.model_copy(update={"python": str(ahead)}))
    bundle = live_bundle(shop / "a.bundle", "a")
    assert command("deploy", bundle, "orin") == 14
    told = capsys.readouterr().err
    assert f"orin: {bundle}: the key workshop" in told and "says 2030-01-01" in told and "store/" not in told


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

"""What is not put into use on a device, and what is said of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_python import device_python
from device_shop import command, deployed, listed, small_disk, unmounted
from live_bundle import live_bundle
from ssh_line import Line
from ssh_place import SSHD, Place, started

from toolchain.devices.file import Device


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server is enough here: what differs between the two is tested beside the transport and deploy."""
    with started("openssh" if SSHD else "asyncssh", tmp_path_factory.mktemp("server")) as place:
        yield place


def test_probe_tells_people_what_a_device_has(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("device", "probe", "orin") == 0
    told = capsys.readouterr().out
    assert told.startswith("orin\n") and "runtimes  onnxruntime 1." in told and "deployed  nothing" in told


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


def test_a_bundle_that_is_not_there_is_a_mistake_of_the_command_line(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("deploy", shop / "nope.bundle", "orin") == 2
    assert "nope.bundle: does not exist" in capsys.readouterr().err


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
    told = capsys.readouterr()
    assert "orin: nothing is deployed there" in told.err and told.out == ""  # no row of dashes beside the reason


def test_a_folder_that_is_on_no_disk_is_not_called_full(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device.model_copy(update={"folder": "/proc/ours"}))
    assert command("device", "probe", "orin") == 14
    told = capsys.readouterr().err
    assert "orin: /proc/ours cannot be written (" in told and "choose another folder in devices.yaml" in told and "full" not in told


def test_a_disk_that_is_full_once_the_bundle_is_unpacked_leaves_what_was_in_use(
    shop: Path, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_disk(tmp_path / "small", 24)
    try:
        small = device.model_copy(update={"folder": str(folder / "ours")})
        listed(shop, orin=small)
        assert command("deploy", live_bundle(shop / "good.bundle", "good"), "orin") == 0
        assert command("deploy", live_bundle(shop / "wide.bundle", "wide", wide=14 << 20), "orin") == 14
        assert re.search("orin: .*the disk is full; make room", capsys.readouterr().err)
        assert deployed(small, capsys) == ("A", {"A": "good"})
    finally:
        unmounted(folder)

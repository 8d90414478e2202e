"""Devices that are really reached, each at the end of a line that can be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from device_python import device_python
from live_bundle import trusted_folder
from ssh_line import Line
from ssh_place import SSHD, USER, Place, started

from toolchain import console
from toolchain.devices import transport
from toolchain.devices.file import Device


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python as a device has it: numpy and onnxruntime alone."""
    return device_python(tmp_path_factory.mktemp("device_python"))


@pytest.fixture(scope="module", params=["asyncssh", "openssh"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "openssh" and SSHD is None:
        pytest.skip("OpenSSH's server is not installed (apt-get install openssh-server)")
    with started(request.param, tmp_path_factory.mktemp(request.param)) as place:
        yield place


@pytest.fixture
def line(server: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line to the server, whose host key is known; this machine's home is the tests' own, and no agent is asked."""
    monkeypatch.setenv("HOME", str(server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(transport, "PAUSE_S", 0.05)
    monkeypatch.setattr(console, "_quiet", False)  # --quiet of one test must not hush the next
    (server.home / ".ssh" / "known_hosts").unlink(missing_ok=True)
    line = Line(server.port)
    server.known(line.port)
    yield line
    line.close()


@pytest.fixture
def device(line: Line, tmp_path: Path, python: str) -> Device:
    """At the end of the line, with a folder of its own."""
    return device_at(line, tmp_path / "device", python)


@pytest.fixture
def second(server: Place, line: Line, tmp_path: Path, python: str) -> Iterator[Callable[[], tuple[Line, Device]]]:
    """Makes one more device, at a line of its own."""
    made: list[Line] = []

    def make() -> tuple[Line, Device]:
        made.append(Line(server.port))
        server.known(made[-1].port)
        return made[-1], device_at(made[-1], tmp_path / f"device{len(made) + 1}", python)

    yield make
    for one in made:
        one.close()


def device_at(line: Line, folder: Path, python: str) -> Device:
    folder.mkdir()
    return Device(host="127.0.0.1", port=line.port, user=USER, folder=str(folder / "ours"), python=python)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who ships: keys that are trusted, and a place for bundles and devices.yaml."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("TOOLCHAIN_KEYS", str(trusted_folder(folder / "keys")))
    monkeypatch.setenv("TOOLCHAIN_DEVICES", str(folder / "devices.yaml"))
    return folder

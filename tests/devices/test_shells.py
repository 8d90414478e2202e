"""Devices whose login shell prints, that have no SFTP, or whose disk cannot be written: told as what they are."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from device_shop import small_disk, unmounted
from ssh_place import SFTP_SERVERS, SSHD, USER, started

from toolchain.devices.file import Device
from toolchain.devices.remote import ask
from toolchain.devices.transport import Link
from toolchain.errors import DeviceError

PRINTS = 'printf welcome; eval "$SSH_ORIGINAL_COMMAND"; code=$?; echo logout; echo bye >&2; exit $code'
Reached = Callable[..., Device]


@pytest.fixture(params=["asyncssh", "openssh"])
def reached(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """Starts a server as it is asked for; gives the device there."""
    if request.param == "openssh" and SSHD is None:
        pytest.skip("OpenSSH's server is not installed (apt-get install openssh-server)")
    with ExitStack() as servers:
        def start(python: str = "python3", **how: str) -> Device:
            place = servers.enter_context(started(request.param, tmp_path / "server", **how))
            monkeypatch.setenv("HOME", str(place.home))
            monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
            place.known(place.port)
            return Device(host="127.0.0.1", port=place.port, user=USER, folder=str(tmp_path / "ours"), python=python)

        start.kind = request.param  # type: ignore[attr-defined]
        yield start


def asked(device: Device, *words: str) -> dict[str, Any]:
    async def act() -> dict[str, Any]:
        async with Link("orin", device) as link:
            return await ask(link, *words)

    return asyncio.run(act())


def sftp_server() -> str:
    """OpenSSH's, that a login shell starts when nothing is forced, and bears no noise."""
    found = next((path for path in SFTP_SERVERS if Path(path).is_file()), None)
    return found or pytest.skip("OpenSSH's sftp-server is not installed")


def test_a_server_without_sftp_is_told_to_switch_it_on(reached: Reached) -> None:
    with pytest.raises(DeviceError, match="orin: has no SFTP, by which files are sent .*; switch it on in its SSH server"):
        asked(reached(sftp="none"), "probe")


def test_what_a_login_shell_prints_hides_neither_answers_nor_reasons(reached: Reached, python: str) -> None:
    quiet_sftp = "internal-sftp" if reached.kind == "asyncssh" else sftp_server()  # type: ignore[attr-defined]
    forced = PRINTS if reached.kind == "asyncssh" else (  # type: ignore[attr-defined]
        f'case "$SSH_ORIGINAL_COMMAND" in *sftp-server) exec $SSH_ORIGINAL_COMMAND;; esac; {PRINTS}')
    device = reached(python, sftp=quiet_sftp, forced=forced)
    assert asked(device, "probe")["numpy"]
    with pytest.raises(DeviceError, match="orin: slot A is empty$"):
        asked(device, "golden", "--slot", "A")


@pytest.mark.parametrize("reached", ["asyncssh"], indirect=True)  # files go by another way than the shell there
@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_the_runner_answers_whatever_the_login_shell_and_the_names_there(
    shell: str, reached: Reached, python: str, tmp_path: Path
) -> None:
    program = shutil.which(shell) or pytest.skip(f"{shell} is not installed")
    (odd := tmp_path / "it's !1 $HOME \\n \\' ł").mkdir()
    for name, does in (("python", f'exec {python} "$@"'), ("killed", "kill -9 $$")):
        (odd / name).write_text(f"#!/bin/sh\n{does}\n")
        (odd / name).chmod(0o755)
    device = reached(str(odd / "python"), forced=f'HOME={tmp_path} exec {program} -c "$SSH_ORIGINAL_COMMAND"')
    device = device.model_copy(update={"folder": str(odd / "ours")})
    assert asked(device, "probe")["numpy"] and list((odd / "ours" / "code").iterdir())
    with pytest.raises(DeviceError, match="orin: slot A is empty$"):
        asked(device, "golden", "--slot", "A")
    with pytest.raises(DeviceError, match="orin: there is no program .*none that this user can start"):
        asked(device.model_copy(update={"python": str(odd / "none")}), "probe")
    with pytest.raises(DeviceError, match="orin: `probe` was ended there by signal 9; out of memory[?]$"):
        asked(device.model_copy(update={"python": str(odd / "killed")}), "probe")


def test_a_python_that_is_too_old_is_told_though_the_shell_prints_last(reached: Reached, tmp_path: Path) -> None:
    (old := tmp_path / "old").write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 7, 9); sys.argv[:2] = []; $2" "$@"\n')
    old.chmod(0o755)
    with pytest.raises(DeviceError, match="orin: this is Python 3.7, expected 3.8 or newer$"):
        asked(reached(str(old), forced=PRINTS if reached.kind == "asyncssh" else ""), "probe")  # type: ignore[attr-defined]


def test_a_runner_that_is_killed_is_told_so_though_the_shell_prints_last(reached: Reached, tmp_path: Path) -> None:
    (killed := tmp_path / "killed").write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    with pytest.raises(DeviceError, match="orin: `probe` was ended there by signal 9; out of memory[?]$"):
        asked(reached(str(killed), forced=PRINTS if reached.kind == "asyncssh" else ""), "probe")  # type: ignore[attr-defined]


@pytest.mark.parametrize("reached", ["openssh"], indirect=True)  # asyncssh's SFTP does not go by way of a shell
def test_a_login_shell_that_prints_into_sftp_is_blamed_itself(reached: Reached) -> None:
    with pytest.raises(DeviceError, match="orin: its login shell prints 'welcome.*before any program does.*for people alone"):
        asked(reached(sftp=sftp_server(), forced=PRINTS), "probe")


def test_a_disk_that_is_read_only_is_told(reached: Reached, tmp_path: Path) -> None:
    folder = small_disk(tmp_path / "small", 8)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        device = reached().model_copy(update={"folder": str(folder / "new" / "ours")})
        with pytest.raises(DeviceError, match="orin: the disk with .*small/new/ours is read-only there; make it writable"):
            asked(device, "probe")
    finally:
        unmounted(folder)

"""Who is let in, and who is believed to be the device: refused in one sentence, and nothing is ever accepted silently."""

import asyncio
import socket

import asyncssh
import pytest
from ssh_line import Line

from toolchain.devices.connect import Unreachable, connected
from toolchain.devices.file import Device
from toolchain.errors import DeviceError


def refusal(device: Device, kind: type[DeviceError] = DeviceError) -> str:
    async def attempt() -> None:
        (await connected("orin", device)).abort()

    with pytest.raises(kind) as told:
        asyncio.run(attempt())
    return str(told.value)


def test_a_known_device_lets_this_machine_in(device: Device) -> None:
    async def whoami() -> str:
        async with await connected("orin", device) as connection:
            return str((await connection.run("echo let in")).stdout)

    assert asyncio.run(whoami()) == "let in\n"


def test_a_device_never_seen_is_refused_with_its_fingerprint_and_the_line_that_accepts_it(server, line: Line, device: Device) -> None:
    (server.home / ".ssh" / "known_hosts").unlink()
    told = refusal(device)
    assert server.host_key.get_fingerprint() in told and "has never been seen from here" in told
    assert f"accept it: ssh -p {line.port} {device.user}@127.0.0.1 true" in told
    assert not (server.home / ".ssh" / "known_hosts").exists()


def test_another_host_key_than_the_known_one_is_refused(server, line: Line, device: Device) -> None:
    (server.home / ".ssh" / "known_hosts").unlink()
    server.known(line.port, asyncssh.generate_private_key("ssh-ed25519"))
    told = refusal(device)
    assert "somebody may stand in between" in told and f"ssh-keygen -R '[127.0.0.1]:{line.port}'" in told
    assert server.host_key.get_fingerprint() in told


def test_a_key_that_the_device_does_not_know_is_refused(server, device: Device) -> None:
    stranger = server.folder / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    told = refusal(device.model_copy(update={"key_file": str(stranger)}))
    assert f"{device.user} is not let in" in told and "ssh-copy-id -p" in told


def test_a_private_key_that_is_missing_or_locked_is_named(server, device: Device) -> None:
    assert "there is no private key /nowhere/key" in refusal(device.model_copy(update={"key_file": "/nowhere/key"}))
    locked = server.folder / "locked"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(locked, "pkcs8-pem", passphrase="s3cret")
    told = refusal(device.model_copy(update={"key_file": str(locked)}))
    assert "ssh-add" in told and str(locked) in told


def test_nobody_there_is_told(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "no SSH server listens there" in refusal(device.model_copy(update={"port": port}), Unreachable)
    assert "no machine is called 'no-such-machine.invalid'" in refusal(
        device.model_copy(update={"host": "no-such-machine.invalid"}), Unreachable)


def test_the_users_ssh_config_is_respected(server, line: Line, device: Device) -> None:
    config = server.home / ".ssh" / "config"
    config.write_text(f"Host bench\n  HostName 127.0.0.1\n  Port {line.port}\n  User {device.user}\n")

    async def reached() -> None:
        async with await connected("orin", Device(host="bench")) as connection:
            assert (await connection.run("true")).exit_status == 0

    try:
        asyncio.run(reached())
    finally:
        config.unlink()


def test_a_config_that_believes_anybody_is_not_followed(server, device: Device) -> None:
    config = server.home / ".ssh" / "config"
    config.write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    (server.home / ".ssh" / "known_hosts").unlink()
    try:
        assert "UserKnownHostsFile none" in refusal(device)
        config.write_text("Host *\n  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n")
        assert "has never been seen from here" in refusal(device)
    finally:
        config.unlink()

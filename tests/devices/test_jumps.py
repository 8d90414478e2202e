"""Jump hosts of ~/.ssh/config: entered with the same care as devices, and blamed where it is they that fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from ssh_place import USER, Place

from toolchain.devices.connect import Unreachable, connected
from toolchain.devices.file import Device
from toolchain.errors import DeviceError

BEHIND = Device(host="behind")


@pytest.fixture
def config(server: Place, line: object) -> Iterator[Path]:
    path = server.home / ".ssh" / "config"
    yield path
    path.unlink(missing_ok=True)


def written(config: Path, server: Place, jump: str, more: str = "", port: int | None = None) -> None:
    """`behind` by way of `jump`, which is what the server can be called too."""
    server.known(server.port)
    config.write_text(f"{more}\nHost behind\n  HostName 127.0.0.1\n  Port {port or server.port}\n  User {USER}\n  ProxyJump {jump}\n"
                      f"Host bastion\n  HostName 127.0.0.1\n  Port {server.port}\n  User {USER}\n")


def refusal(kind: type[DeviceError] = DeviceError) -> str:
    async def attempt() -> None:
        (await connected("orin", BEHIND)).abort()

    with pytest.raises(kind) as told:
        asyncio.run(attempt())
    return str(told.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("jump", ["bastion", "{USER}@127.0.0.1:{port}", "bastion,{USER}@127.0.0.1:{port}", "ssh://{USER}@[127.0.0.1]:{port}"])
def test_a_device_is_reached_by_way_of_jump_hosts(jump: str, server: Place, config: Path) -> None:
    written(config, server, jump.format(USER=USER, port=server.port))

    async def said() -> str:
        async with await connected("orin", BEHIND) as connection:
            return str((await connection.run("echo let in")).stdout)

    assert asyncio.run(said()) == "let in\n"


def test_a_jump_host_for_everybody_is_none_for_itself(server: Place, config: Path) -> None:
    written(config, server, "bastion", more="Host *\n  ProxyJump bastion\n")

    async def reached() -> None:
        (await connected("orin", BEHIND)).abort()

    asyncio.run(reached())


def test_a_jump_host_that_is_down_is_named_and_not_the_device(server: Place, config: Path) -> None:
    port = free_port()
    written(config, server, f"127.0.0.1:{port}")
    assert refusal(Unreachable) == (f"orin: its jump host 127.0.0.1:{port}: 127.0.0.1:{port} refuses connections: it is up, and no "
                                    "SSH server listens there")
    written(config, server, "no-such-machine.invalid")
    assert "no machine is called 'no-such-machine.invalid' here" in (told := refusal(Unreachable)) and "mend ProxyJump" in told
    written(config, server, f"root@[::1]:{port}")
    assert f"its jump host root@[::1]:{port}: " in refusal(Unreachable)


def test_a_device_that_is_down_behind_its_jump_host_is_named(server: Place, config: Path) -> None:
    written(config, server, "bastion", port=free_port())
    assert "orin: its jump host bastion does not get through to behind (" in refusal(Unreachable)


def test_a_jump_host_that_lets_nobody_in_is_named(server: Place, config: Path, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "stranger")
    written(config, server, "bastion", more=f"Host bastion\n  IdentityFile {tmp_path}/stranger\n")
    told = refusal()
    assert told.startswith(f"orin: its jump host bastion: {USER} is not let in on bastion") and told.endswith("ssh-copy-id bastion")


def test_a_jump_host_whose_key_is_not_the_known_one_is_refused_by_its_name(server: Place, config: Path) -> None:
    written(config, server, "bastion")
    known = server.home / ".ssh" / "known_hosts"
    known.unlink()
    told = refusal()
    assert told.startswith("orin: its jump host bastion: bastion has never been seen from here") and told.endswith("ssh bastion true")
    server.known(server.port, asyncssh.generate_private_key("ssh-ed25519"))
    told = refusal()
    assert "its jump host bastion: the host key of bastion is" in told and server.host_key.get_fingerprint() in told
    assert "known_hosts has another" in told


def test_jump_hosts_that_go_in_a_circle_are_told(server: Place, config: Path) -> None:
    written(config, server, "bastion", more="Host bastion\n  ProxyJump other\nHost other\n  HostName 127.0.0.1\n  ProxyJump bastion\n")
    assert "more than 8 jump hosts on the way; do they go in a circle? Mend ProxyJump" in refusal()
    written(config, server, "a@b@c:d")
    assert "a ProxyJump for behind that is not understood; expected [user@]host[:port]" in refusal()

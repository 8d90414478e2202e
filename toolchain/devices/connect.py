"""Opening an SSH connection, by way of jump hosts where ~/.ssh/config has them: with keys and known hosts alone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import asyncssh
from pydantic import ValidationError

from toolchain.devices import denied
from toolchain.devices.file import Device, parsed
from toolchain.devices.keys import DEFAULTS, entering, shut
from toolchain.errors import DeviceError, RecipeError

CONNECT_S, LOGIN_S = 15, 30
KEEPALIVE_S, KEEPALIVES = 15, 3  # a line that says nothing for 45 s is cut
JUMPS = 8  # where there are more, they go in a circle
Connection = asyncssh.SSHClientConnection

logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what matters is told in our words


class Unreachable(DeviceError):
    """Nobody answers there now; another moment may be better."""


async def connected(name: str, device: Device) -> Connection:
    """A connection to the device. Raises Unreachable, or DeviceError for what trying again does not mend."""
    return await _entered(name, device, None, 0)


async def _entered(name: str, device: Device, tunnel: Connection | None, depth: int) -> Connection:
    """A connection through the tunnel, or by way of the device's own jump hosts. depth: for how many this is one."""
    options, known = _options(name, device)
    if tunnel is None:
        tunnel = await _jumped(name, device, known.tunnel, depth)
    try:
        connection = await _made(name, device, tunnel, depth, options, known)
    except BaseException:
        if tunnel is not None:
            tunnel.abort()
        raise
    connection.set_extra_info(called=denied.place(device))
    if tunnel is not None:
        connection.set_tunnel(tunnel)  # which is closed with it
    return connection


async def _made(name: str, device: Device, tunnel: Connection | None, depth: int, options: dict[str, Any],
                known: asyncssh.SSHClientConnectionOptions) -> Connection:
    """The connection itself. known: the options, with what ~/.ssh/config adds."""
    client, files = _Client(), known.known_hosts
    if files is None:  # which would mean: believe anybody
        raise DeviceError(f"{name}: ~/.ssh/config has UserKnownHostsFile none for {device.host}, and a device is never "
                          "entered without knowing its host key; remove that line")
    try:
        return await asyncssh.connect(device.host, client_factory=lambda: client, known_hosts=files, tunnel=tunnel,
                                      **options)
    except asyncssh.HostKeyNotVerifiable:
        raise DeviceError(f"{name}: {denied.host_key(device, client.seen, client.asked, files)}") from None
    except asyncssh.PermissionDenied:
        told = denied.not_let_in(device, known.username, *await shut(_private_keys(device, known), known.agent_path))
        raise DeviceError(f"{name}: {told}") from None
    except asyncssh.KeyExchangeFailed as error:
        raise DeviceError(f"{name}: {denied.place(device)} and this machine share no way to talk ({error.reason}); if "
                          f"its host key was replaced: {denied.forget(device)}") from None
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        way = str(tunnel.get_extra_info("called")) if tunnel is not None else None
        mend = "ProxyJump in ~/.ssh/config" if depth else "host in devices.yaml"
        raise Unreachable(f"{name}: {denied.unreached(device, error, way, mend, CONNECT_S)}") from None


async def _jumped(name: str, device: Device, jumps: Any, depth: int) -> Connection | None:
    """A connection to the last of the jump hosts "[user@]host[:port],…", each by way of the one before."""
    if not isinstance(jumps, str) or jumps.lower() == "none":
        return None
    if depth >= JUMPS:
        raise DeviceError(f"{name}: ~/.ssh/config has more than {JUMPS} jump hosts on the way; do they go in a circle? "
                          "Mend ProxyJump")
    tunnel = None
    for text in jumps.split(","):
        try:
            jump = Device.model_validate(parsed(text))
        except (RecipeError, ValidationError):
            raise DeviceError(f"{name}: ~/.ssh/config has a ProxyJump for {device.host} that is not understood; "
                              "expected [user@]host[:port]") from None
        if jump.host != device.host:  # as with `Host *`, which holds for the jump host too
            tunnel = await _entered(f"{name}: its jump host {denied.place(jump)}", jump, tunnel, depth + 1)
    return tunnel


def _options(name: str, device: Device) -> tuple[dict[str, Any], asyncssh.SSHClientConnectionOptions]:
    """What is not left to ~/.ssh/config, and all with what is. Neither a password nor anything else but a key is ever
    offered. Raises DeviceError.
    """
    given = {"port": device.port, "username": device.user}
    options = {**{key: value for key, value in given.items() if value is not None},
               **(entering(name, device.key_file) if device.key_file else {}),
               "preferred_auth": "publickey", "password_auth": False, "kbdint_auth": False, "host_based_auth": False,
               "gss_host": None, "agent_forwarding": False, "connect_timeout": CONNECT_S, "login_timeout": LOGIN_S,
               "keepalive_interval": KEEPALIVE_S, "keepalive_count_max": KEEPALIVES}
    try:
        return options, asyncssh.SSHClientConnectionOptions(host=device.host, config=(), **options)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise DeviceError(f"{name}: the private key {device.key_file or 'of ~/.ssh'} cannot be opened "
                          f"({error})") from None
    except asyncssh.ConfigParseError as error:
        raise DeviceError(f"{name}: ~/.ssh/config: {error}") from None
    except OSError as error:
        raise DeviceError(f"{name}: {error.filename} cannot be read ({error.strerror}); mend it, or IdentityFile in "
                          "~/.ssh/config where that names it") from None


def _private_keys(device: Device, known: asyncssh.SSHClientConnectionOptions) -> list[Path]:
    """Those that could have been offered, open or locked."""
    listed: Any = known.config.get("IdentityFile") or [f"~/.ssh/{name}" for name in DEFAULTS]
    return [Path(path).expanduser() for path in ([device.key_file] if device.key_file else listed)]


class _Client(asyncssh.SSHClient):
    """Notes the host key that is in no known_hosts, and refuses it."""

    seen: asyncssh.SSHKey | None = None
    asked: tuple[str, str, int | None] = ("", "", None)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen, self.asked = key, (host, addr, port if port != 22 else None)
        return False

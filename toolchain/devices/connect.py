"""Opening an SSH connection: keys and known hosts alone, and one sentence for each way in which it can fail."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from pathlib import Path
from typing import Any

import asyncssh

from toolchain.devices.file import Device
from toolchain.errors import DeviceError

CONNECT_S, LOGIN_S = 15, 30
KEEPALIVE_S, KEEPALIVES = 15, 3  # a line that says nothing for 45 s is cut
KNOWN_HOSTS = Path("~/.ssh/known_hosts")

logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what matters is told in our words


class Unreachable(DeviceError):
    """Nobody answers there now; another moment may be better."""


async def connected(name: str, device: Device) -> asyncssh.SSHClientConnection:
    """A connection to the device. Raises Unreachable, or DeviceError for what trying again does not mend."""
    if device.key_file and not (key := Path(device.key_file).expanduser()).is_file():
        raise DeviceError(f"{name}: there is no private key {key}; mend key_file in devices.yaml")
    client = _Client()
    try:
        options = _options(device)
        files = asyncssh.SSHClientConnectionOptions(host=device.host, config=(), **options).known_hosts
        if files is None:  # which would mean: believe anybody
            raise DeviceError(f"{name}: ~/.ssh/config has UserKnownHostsFile none for {device.host}, and a device is "
                              "never entered without knowing its host key; remove that line")
        return await asyncssh.connect(device.host, client_factory=lambda: client, known_hosts=files, **options)
    except asyncssh.HostKeyNotVerifiable:
        raise DeviceError(f"{name}: {_host_key(device, client, files)}") from None
    except asyncssh.PermissionDenied:
        raise DeviceError(f"{name}: {client.user or device.user or 'the user'} is not let in on {_place(device)} with "
                          f"any key of this machine; put one there: {_command('ssh-copy-id', device)}") from None
    except asyncssh.KeyExchangeFailed as error:
        raise DeviceError(f"{name}: {_place(device)} and this machine share no way to talk ({error.reason}); if its "
                          f"host key was replaced: {_forget(device)}") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise DeviceError(f"{name}: the private key {device.key_file or 'of ~/.ssh'} cannot be opened ({error}); if it "
                          "is locked by a passphrase, give it to the agent: ssh-add") from None
    except asyncssh.ConfigParseError as error:
        raise DeviceError(f"{name}: ~/.ssh/config: {error}") from None
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        raise Unreachable(f"{name}: {_unreached(device, error)}") from None


def _options(device: Device) -> dict[str, Any]:
    """What is not left to ~/.ssh/config. Neither a password nor anything else but a key is ever offered."""
    given = {"port": device.port, "username": device.user, "client_keys": device.key_file}
    return {**{key: value for key, value in given.items() if value is not None},
            "preferred_auth": "publickey", "password_auth": False, "kbdint_auth": False, "host_based_auth": False,
            "gss_host": None, "agent_forwarding": False, "connect_timeout": CONNECT_S, "login_timeout": LOGIN_S,
            "keepalive_interval": KEEPALIVE_S, "keepalive_count_max": KEEPALIVES}


class _Client(asyncssh.SSHClient):
    """Notes the host key that is in no known_hosts, and refuses it."""

    seen: asyncssh.SSHKey | None = None
    user: str | None = None
    asked: tuple[str, str, int | None] = ("", "", None)

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.user = conn.get_extra_info("username")

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen, self.asked = key, (host, addr, port if port != 22 else None)
        return False


def _host_key(device: Device, client: _Client, files: Any) -> str:
    """Why the host key is refused: never seen, or another one than known."""
    if client.seen is None:
        return f"the host key of {_place(device)} is refused: it was revoked, or is not what its certificate says"
    shown = f"{client.seen.get_algorithm()} {client.seen.get_fingerprint()}"
    if _known(client, files):
        return (f"the host key of {_place(device)} is {shown}, and known_hosts has another: somebody may stand in "
                f"between, or the device was set up anew; only if you know that it was: {_forget(device)}")
    return (f"{_place(device)} has never been seen from here; its host key is {shown}: compare that with the device's "
            f"own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then accept it: {_command('ssh', device)} true")


def _known(client: _Client, files: Any) -> bool:
    """Whether known_hosts has any key for it."""
    path = KNOWN_HOSTS.expanduser()
    found = files or (str(path) if path.is_file() else b"")
    return bool(asyncssh.match_known_hosts(found, *client.asked)[0])


def _unreached(device: Device, error: Exception) -> str:
    place, code = _place(device), getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return f"no machine is called '{device.host}' here ({error.strerror}); mend host in devices.yaml"
    if isinstance(error, ConnectionRefusedError) or code == errno.ECONNREFUSED:
        return f"{place} refuses connections: it is up, and no SSH server listens there"
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return f"{place} does not answer ({CONNECT_S} s); is it on, and in this network?"
    return f"{place} cannot be reached ({error})"


def _place(device: Device) -> str:
    return device.address.removeprefix("ssh://")


def _command(program: str, device: Device) -> str:
    port = f" -p {device.port}" if device.port else ""
    return f"{program}{port} {f'{device.user}@' if device.user else ''}{device.host}"


def _forget(device: Device) -> str:
    host = f"'[{device.host}]:{device.port}'" if device.port and device.port != 22 else device.host
    return f"ssh-keygen -R {host}"

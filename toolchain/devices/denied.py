"""Why an SSH connection did not come about: a sentence for each way to fail, with the line that mends it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh

from toolchain.devices.file import Device

KNOWN_HOSTS = Path("~/.ssh/known_hosts")


def host_key(device: Device, seen: asyncssh.SSHKey | None, asked: tuple[str, str, int | None], files: Any) -> str:
    """Why the host key is refused: never seen, or another one than known. asked: what known_hosts was asked for."""
    if seen is None:
        return f"the host key of {place(device)} is refused: it was revoked, or is not what its certificate says"
    shown = f"{seen.get_algorithm()} {seen.get_fingerprint()}"
    path = KNOWN_HOSTS.expanduser()
    found = files or (str(path) if path.is_file() else b"")
    if asyncssh.match_known_hosts(found, *asked)[0]:
        return (f"the host key of {place(device)} is {shown}, and known_hosts has another: somebody may stand in "
                f"between, or the device was set up anew; only if you know that it was: {forget(device)}")
    return (f"{place(device)} has never been seen from here; its host key is {shown}: compare that with the device's "
            f"own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then accept it: {_command('ssh', device)} true")


def not_let_in(device: Device, user: str, shut: Sequence[Path], agent: bool) -> str:
    """shut: private keys that a passphrase locks and the agent does not have. agent: whether there is one."""
    put = f"put one there: {_command('ssh-copy-id', device)}"
    if not shut:
        return f"{user} is not let in on {place(device)} with any key of this machine; {put}"
    names = " ".join(map(str, shut))
    give = "give it to the agent" if agent else 'start an agent (eval "$(ssh-agent)") and give it the key'
    return (f"{user} is not let in on {place(device)} with any key that is open; {names} is locked by a passphrase, "
            f"and no agent has it: {give}: ssh-add {names}; if it is not a key for there, {put}")


def unreached(device: Device, error: Exception, way: str | None, mend: str, waited_s: int) -> str:
    """way: the jump host in front of it. mend: where its host is written."""
    where, code = place(device), getattr(error, "errno", None)
    if isinstance(error, asyncssh.ChannelOpenError) and way:
        return (f"its jump host {way} does not get through to {where} ({error.reason}); is it on, and may the jump "
                "host forward there (AllowTcpForwarding)?")
    if isinstance(error, socket.gaierror):
        return f"no machine is called '{device.host}' here ({error.strerror}); mend {mend}"
    if isinstance(error, ConnectionRefusedError) or code == errno.ECONNREFUSED:
        return f"{where} refuses connections: it is up, and no SSH server listens there"
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return f"{where} does not answer ({waited_s} s); is it on, and in this network?"
    return f"{where} cannot be reached ({error})"


def place(device: Device) -> str:
    return device.address.removeprefix("ssh://")


def _command(program: str, device: Device) -> str:
    port = f" -p {device.port}" if device.port else ""
    return f"{program}{port} {f'{device.user}@' if device.user else ''}{device.host}"


def forget(device: Device) -> str:
    host = f"'[{device.host}]:{device.port}'" if device.port and device.port != 22 else device.host
    return f"ssh-keygen -R {host}"

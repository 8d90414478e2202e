"""SSH servers of the tests' own, on loopback: OpenSSH's where it is installed, and asyncssh's. Nothing of the user's is
read or written: host key, user key, known hosts and home folder are made for them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

SERVER = Path(__file__).with_name("ssh_server.py")
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
USER = pwd.getpwuid(os.getuid()).pw_name
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {host_key}
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 100
"""
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


@dataclass
class Place:
    """A server that runs. home: of the machine that calls, with ~/.ssh."""

    kind: str
    port: int
    home: Path
    folder: Path
    host_key: asyncssh.SSHKey
    sftp: str = "internal-sftp"
    forced: str = ""

    def known(self, port: int, key: asyncssh.SSHKey | None = None) -> None:
        """Write the host key of what is reached at `port` into known_hosts."""
        public = (key or self.host_key).export_public_key().decode().strip()
        with open(self.home / ".ssh" / "known_hosts", "a") as file:
            file.write(f"[127.0.0.1]:{port} {public}\n")


@contextmanager
def started(kind: str, folder: Path, sftp: str = "internal-sftp", forced: str = "") -> Iterator[Place]:
    """A server of this kind ("asyncssh" or "openssh") with its files in `folder`, until the end.

    sftp: what serves files; "none": nothing. forced: is run instead of every command, which it finds in
    $SSH_ORIGINAL_COMMAND, as a login shell's own lines are.
    """
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    for path, key in ((folder / "host_key", host_key), (home / ".ssh" / "id_ed25519", user_key)):
        key.write_private_key(path)
        path.chmod(0o600)
    (folder / "authorized").write_bytes(user_key.export_public_key())
    place = Place(kind, _free_port(), home, folder, host_key, sftp, forced)
    process = subprocess.Popen(_command(place), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _listening(place, process)
        yield place
    finally:
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _command(place: Place) -> list[str]:
    keys = {"host_key": place.folder / "host_key", "authorized": place.folder / "authorized"}
    if place.kind == "asyncssh":
        return [sys.executable, str(SERVER), str(place.port), *map(str, keys.values()), place.sftp, place.forced]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)  # where it parks its unprivileged half
    more = (f"Subsystem sftp {place.sftp}\n" if place.sftp != "none" else "") + (f"ForceCommand {place.forced}\n" if place.forced else "")
    (place.folder / "sshd_config").write_text(CONFIG.format(port=place.port, **keys) + more)
    return [str(SSHD), "-D", "-e", "-f", str(place.folder / "sshd_config")]


def _listening(place: Place, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            assert process.stdout
            raise AssertionError(process.stdout.read().decode())
        try:
            socket.create_connection(("127.0.0.1", place.port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{place.kind} does not listen")

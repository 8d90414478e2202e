"""Private keys of this machine: which one enters, and whether a locked one can be used by way of the agent."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from toolchain.errors import DeviceError, RecipeError

DEFAULTS = ("id_ed25519_sk", "id_ecdsa_sk", "id_ed448", "id_ed25519", "id_ecdsa", "id_rsa", "id_dsa")  # of ~/.ssh
OPENSSH, MAGIC = "OPENSSH PRIVATE KEY", b"openssh-key-v1\0"


def entering(name: str, key_file: str) -> dict[str, Any]:
    """How asyncssh is told of the private key of devices.yaml; the agent is asked for a locked one, and for no other.

    Raises DeviceError.
    """
    path = Path(key_file).expanduser()
    if not path.is_file():
        raise DeviceError(f"{name}: there is no private key {path}; mend key_file in devices.yaml")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{name}: the private key {path} cannot be read ({error.strerror})") from None
    if is_locked(path):
        public = public_of(path)
        return {"client_keys": str(path), "ignore_encrypted": True, "agent_identities": [public] if public else None}
    if is_public(content):
        raise DeviceError(f"{name}: {path} is a public key, and key_file of devices.yaml names the private one"
                          f"{beside(path)}")
    return {"client_keys": str(path)}


def is_public(content: bytes) -> bool:
    """Whether a file holds the public half of a key, and not the private one too."""
    if b"PRIVATE KEY" in content:
        return False
    try:
        asyncssh.import_public_key(content)
    except (asyncssh.KeyImportError, ValueError):
        return False
    return True


def beside(path: Path) -> str:
    """Where the private half of a public key should lie, as the end of a sentence."""
    return f": {path.with_suffix('')}" if path.suffix == ".pub" else ""


def refuse_public(name: str, key_file: str) -> None:
    """Raise RecipeError where --key-file is the public half. One that is not there yet may come later."""
    path = Path(key_file).expanduser()
    with suppress(OSError):
        if is_public(path.read_bytes()):
            raise RecipeError(f"device add {name}: found --key-file {key_file}, which is a public key; expected the "
                              f"private one{beside(path)}")


def is_locked(path: Path) -> bool:
    """Whether there is a private key that a passphrase locks."""
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyEncryptionError:
        return True
    except asyncssh.KeyImportError as error:
        return str(error).startswith("Passphrase")
    except (OSError, ValueError):
        return False
    return False


def public_of(path: Path) -> bytes | None:
    """The public half of a private key, as it goes over the line, though that is locked; None where none is found."""
    with suppress(OSError, ValueError, asyncssh.KeyImportError):
        return asyncssh.read_public_key(f"{path}.pub").public_data
    with suppress(OSError, ValueError, IndexError, binascii.Error):
        return _openssh_public(path.read_text(encoding="ascii"))
    return None


def _openssh_public(text: str) -> bytes | None:
    """OpenSSH's own format has it in clear: strings cipher, kdf, kdf options, then a count and the public key."""
    body = base64.b64decode(text.partition(f"-----BEGIN {OPENSSH}-----")[2].partition("-----END")[0])
    if not body.startswith(MAGIC):
        return None
    at = len(MAGIC)
    for _ in range(3):
        at += 4 + int.from_bytes(body[at : at + 4], "big")
    at += 4
    count = int.from_bytes(body[at : at + 4], "big")
    return body[at + 4 : at + 4 + count] or None


async def shut(paths: Iterable[Path], agent_path: str | None) -> tuple[list[Path], bool]:
    """Which of these keys are locked and not with the agent, and whether there is an agent at all."""
    locked = [path for path in paths if is_locked(path)]
    if not locked:
        return [], True
    try:
        if not agent_path:
            raise OSError
        async with asyncssh.connect_agent(agent_path) as agent:
            held = {key.public_data for key in await agent.get_keys()}
    except (OSError, ValueError, asyncssh.Error):
        return locked, False
    return [path for path in locked if public_of(path) not in held], True

"""Private keys that are locked, public, or missing: the agent is asked, and the cause is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from device_shop import command
from ssh_place import Place

from toolchain.devices.connect import connected
from toolchain.devices.file import Device
from toolchain.devices.keys import is_locked, public_of
from toolchain.errors import DeviceError

PASSPHRASE = "s3cret"


def enter(device: Device) -> None:
    async def attempt() -> None:
        (await connected("orin", device)).abort()

    asyncio.run(attempt())


def refusal(device: Device) -> str:
    with pytest.raises(DeviceError) as told:
        enter(device)
    return str(told.value)


@pytest.fixture
def locked(server: Place, tmp_path: Path) -> Path:
    """A private key with a passphrase, which lets in. No public half lies beside it."""
    path = tmp_path / "locked"
    shutil.copy(server.home / ".ssh" / "id_ed25519", path)
    return lock(path)


def lock(path: Path) -> Path:
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not installed (apt-get install openssh-client)")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", PASSPHRASE, "-f", str(path)], check=True, capture_output=True)
    return path


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent of the tests' own, without keys; gives the file that ssh-add asks for the passphrase."""
    if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
        pytest.skip("OpenSSH's agent is not installed (apt-get install openssh-client)")
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline()  # it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        asking = tmp_path / "asking"
        asking.write_text(f"#!/bin/sh\necho {PASSPHRASE}\n")
        asking.chmod(0o755)
        yield asking
    finally:
        process.terminate()
        process.wait(10)


def give(asking: Path, key: Path) -> None:
    subprocess.run(["ssh-add", str(key)], check=True, capture_output=True, stdin=subprocess.DEVNULL,
                   env={**os.environ, "SSH_ASKPASS": str(asking), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"})


def moved_away(server: Place, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A home without keys, in which the host is known; gives its .ssh."""
    shutil.copytree(server.home / ".ssh", home / ".ssh")
    (home / ".ssh" / "id_ed25519").unlink()
    monkeypatch.setenv("HOME", str(home))
    return home / ".ssh"


def test_a_locked_key_file_enters_once_the_agent_has_it(
    server: Place, device: Device, locked: Path, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_away(server, monkeypatch, tmp_path / "home")
    named = device.model_copy(update={"key_file": str(locked)})
    told = refusal(named)
    assert f"{locked} is locked by a passphrase, and no agent has it: give it to the agent: ssh-add {locked}" in told
    give(agent, locked)
    enter(named)


def test_a_locked_key_without_an_agent_is_the_cause_that_is_told(
    server: Place, device: Device, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = moved_away(server, monkeypatch, tmp_path / "home")
    assert 'start an agent (eval "$(ssh-agent)") and give it the key: ssh-add' in refusal(device.model_copy(update={"key_file": str(locked)}))
    shutil.copy(locked, ssh / "id_ed25519")
    assert f"{ssh}/id_ed25519 is locked by a passphrase" in refusal(device)
    (ssh / "id_ed25519").unlink()
    (ssh / "config").write_text(f"Host *\n  IdentityFile {locked}\n")
    assert f"{locked} is locked by a passphrase" in refusal(device) and "ssh-copy-id" in refusal(device)
    (ssh / "config").write_text(f"Host *\n  IdentityFile {tmp_path}/nowhere\n")
    assert f"{tmp_path}/nowhere cannot be read (No such file or directory); mend it, or IdentityFile in ~/.ssh/config" in refusal(device)


def test_the_agents_other_keys_are_not_offered_for_a_locked_key_file(
    server: Place, device: Device, locked: Path, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = moved_away(server, monkeypatch, tmp_path / "home")
    give(agent, locked)
    other = ssh / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(other)
    other.chmod(0o600)
    lock(other)
    assert f"{other} is locked by a passphrase" in refusal(device.model_copy(update={"key_file": str(other)}))


def test_a_public_key_is_not_taken_for_the_private_one(server: Place, device: Device, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_public_key(tmp_path / "id.pub")
    told = refusal(device.model_copy(update={"key_file": str(tmp_path / "id.pub")}))
    assert told == f"orin: {tmp_path}/id.pub is a public key, and key_file of devices.yaml names the private one: {tmp_path}/id"
    (tmp_path / "junk").write_text("nothing of a key")
    assert f"the private key {tmp_path}/junk cannot be opened" in refusal(device.model_copy(update={"key_file": str(tmp_path / "junk")}))


@pytest.mark.parametrize("form", ["openssh", "rfc4716", "pkcs8-pem"])
def test_a_public_key_is_refused_when_a_device_is_added(form: str, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    key.write_private_key(shop / "id")
    key.write_public_key(shop / "id.pub", form)
    assert command("device", "add", "orin", "ssh://me@orin", "--key-file", shop / "id.pub") == 2
    assert f"which is a public key; expected the private one: {shop}/id\n" in capsys.readouterr().err
    assert not (shop / "devices.yaml").exists()
    for number, file in enumerate(("id", "not_yet", ".")):
        assert command("device", "add", f"orin{number}", "ssh://me@orin", "--key-file", shop / file) == 0


@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem", "pkcs1-pem"])
def test_the_public_half_of_a_locked_key_is_found(form: str, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    if form == "openssh":
        key.write_private_key(tmp_path / "key")
        (tmp_path / "key").chmod(0o600)
        lock(tmp_path / "key")
    else:
        key.write_private_key(tmp_path / "key", form, passphrase=PASSPHRASE)
    assert is_locked(tmp_path / "key")
    assert public_of(tmp_path / "key") == (key.public_data if form == "openssh" else None)
    key.write_public_key(tmp_path / "key.pub")
    assert public_of(tmp_path / "key") == key.public_data

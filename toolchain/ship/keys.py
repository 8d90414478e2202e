"""Ed25519 keys in a folder: NAME.key (private, mode 0600), NAME.pub, and trusted/NAME.pub of those who are believed.

A passphrase comes from a prompt or a file, never from the command line, where other processes could read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from toolchain.console import log
from toolchain.errors import BundleRefused, RecipeError, WorkDirError, nearest
from toolchain.files import write_text
from toolchain.runner.trust import PUBLIC, Key, Refused, by_id, key_text, read_key

PRIVATE, TRUSTED = ".key", "trusted"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
NAMES = "letters (a to z), digits, '.', '_', '@' and '-', 64 at most, the first a letter or a digit"
OTHERS = 0o077  # permission bits that a private key's file must not have


def new_key(folder: Path, name: str, expires: date, passphrase: bytes | None = None, today: date | None = None) -> Key:
    """Make a key pair in `folder` and trust it here. Raises RecipeError (name, day), WorkDirError."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"keys new: found the name '{name}', expected {NAMES}")
    today = today or date.today()
    if expires < today:
        raise RecipeError(f"keys new: --expires {expires} has gone by; expected a day to come")
    files = [folder / f"{name}{PRIVATE}", folder / f"{name}{PUBLIC}", folder / TRUSTED / f"{name}{PUBLIC}"]
    taken = [path for path in files if path.exists()]
    if taken:
        raise RecipeError(f"{taken[0]}: exists already, and is not overwritten; choose another name, or delete it")
    private = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    key = self_signed(private, name, today, expires)
    try:
        for place in (folder, folder / TRUSTED):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(place / f"{name}{PUBLIC}", key_text(key))
        handle = os.open(folder / f"{name}{PRIVATE}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return key


def self_signed(private: Ed25519PrivateKey, name: str, created: date, expires: date) -> Key:
    """The public half, with what it says of itself signed."""
    key = Key(name, private.public_key().public_bytes_raw(), created, expires)
    return key._replace(signature=private.sign(key.statement))


def open_private(folder: Path, key: Key, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """The private half of `key`. Raises RecipeError: others may read its file, a wrong passphrase, another key's."""
    path = folder / f"{key.name}{PRIVATE}"
    if os.name == "posix" and (mode := path.stat().st_mode) & OTHERS:
        raise RecipeError(f"{path}: its mode is {mode & 0o777:04o}, so others may read this private key; "
                          f"chmod 600 {path}, and make a new key if somebody did")
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except TypeError:
        told = "has no passphrase, and one was given" if passphrase else "is locked by a passphrase: --passphrase-file"
        raise RecipeError(f"{path}: {told}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise RecipeError(f"{path}: cannot be opened: the passphrase is wrong, or the file damaged") from None
    if not isinstance(private, Ed25519PrivateKey) or private.public_key().public_bytes_raw() != key.public:
        raise RecipeError(f"{path}: is not the private half of {key.name}{PUBLIC}")
    return private


def locked(folder: Path, key: Key) -> bool:
    """Whether a passphrase is needed for the private half of `key`."""
    return b"ENCRYPTED" in (folder / f"{key.name}{PRIVATE}").read_bytes()[:64]


def own_keys(folder: Path) -> list[Key]:
    """The keys in `folder` whose private half is there too; without the damaged ones, which `damaged` tells."""
    return list(_sound(_own_files(folder)).values())


def chosen(folder: Path, name: str | None, today: date | None = None) -> Key:
    """The key to sign with: `name`, or the only one. Raises RecipeError, also where it expired, BundleRefused where its
    public half is damaged, which without a name may be any that is.
    """
    files = _own_files(folder)
    own = {key.name: key for key in _sound(files).values()}
    for path in files:
        if (name is None or name == path.stem and name not in own) and (why := _wrong(path)):
            other = f"; or name another key: --key {' or '.join(own)}" if own else ""
            raise BundleRefused(f"{why}; {cure(folder, path)}{other}")
    if not own:
        raise RecipeError(f"{folder}: holds no key to sign with; make one: toolchain keys new NAME")
    if name is None and len(own) > 1:
        raise RecipeError(f"{folder}: holds {len(own)} keys; name the one to sign with: --key {' or '.join(own)}")
    if name is not None and name not in own:
        raise RecipeError(f"{folder}: holds no private key '{name}'{nearest(name, own)}; found {', '.join(own)}")
    key = own[name] if name else next(iter(own.values()))
    if key.expires < (today or date.today()):
        raise RecipeError(f"{folder}: the key {key.name} expired on {key.expires}; make one: toolchain keys new NAME")
    return key


def public_keys(folder: Path) -> list[Key]:
    """The public keys that lie in `folder` itself, where they sign and trust nothing; without the damaged ones."""
    return list(_sound(_public_files(folder)).values())


def damaged(folder: Path) -> dict[Path, str]:
    """Why files of `folder`, and of those trusted there, are no public keys, and what mends it."""
    files = dict.fromkeys([*_own_files(folder), *_public_files(folder), *_public_files(folder / TRUSTED)])
    return {path: f"{why}; {cure(folder, path)}" for path in files if (why := _wrong(path))}


def cure(folder: Path, path: Path) -> str:
    """What to do with a damaged public key in `folder`, or in what is trusted there."""
    trusted = folder / TRUSTED / path.name
    if path.parent == trusted.parent:
        for intact, key in _sound([folder / path.name]).items():
            if key.name == path.stem:  # what it is called when it is trusted
                return f"{intact} is an intact copy: toolchain keys trust {intact} --replace"
        return "delete it, or trust an intact copy: toolchain keys trust FILE --replace"
    if not path.with_suffix(PRIVATE).exists():
        return "it is not in use: delete it"
    if _wrong(trusted) is None:
        return f"{trusted} is an intact copy: copy it to {path}"
    return (f"copy to {path} what those have who trust this key; where nobody has it, delete "
            f"{path.with_suffix(PRIVATE).name} too and make a new key: toolchain keys new NAME")


def trust(folder: Path, file: Path, replace: bool = False) -> Key:
    """Believe what the public key in `file` signs. replace: also where this key is trusted with another name or dates.

    Raises BundleRefused for what is no such key, RecipeError where nothing may be overwritten.
    """
    _refuse_private(file)
    key = _read(file)
    if not NAME.fullmatch(key.name):
        raise RecipeError(f"{file}: its name is {key.name!r}, expected {NAMES}")
    place = folder / TRUSTED / f"{key.name}{PUBLIC}"
    there = _sound(_public_files(folder / TRUSTED))
    if place in there and there[place].public != key.public:
        raise RecipeError(f"{place}: another key of this name is trusted already; delete it first if it was replaced")
    if not replace and place.exists() and place not in there:
        raise RecipeError(f"{_wrong(place)}; {file} takes its place with --replace")
    before = [path for path, old in there.items() if old.public == key.public]
    if not replace and (other := next((there[path] for path in before if there[path] != key), None)):
        raise RecipeError(f"{file}: this key ({key.key_id}) is trusted already, as {_dated(other)}; {file.name} says "
                          f"{_dated(key)}; trust that instead with --replace")
    try:
        for parent in (folder, folder / TRUSTED):
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(place, key_text(key))
        for path in set(before) - {place}:
            path.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return key


def _dated(key: Key) -> str:
    return f"{key.name} of {key.created} until {key.expires}"


def _refuse_private(file: Path) -> None:
    """Raises RecipeError where there is no file, and for a private key, which must not be handed around."""
    if not file.exists():
        beside = [path.name for path in file.parent.glob(f"*{PUBLIC}")]
        raise RecipeError(f"{file}: does not exist{nearest(file.name, beside)}; expected a public key, NAME{PUBLIC}")
    try:
        with open(file, "rb") as opened:
            private = b"PRIVATE KEY-----" in opened.read(256)
    except OSError:  # told by whoever reads it whole
        return
    if private:
        raise RecipeError(f"{file}: is the private half of a key, which must never leave the machine it was made on; "
                          f"trust its public half, {file.with_suffix(PUBLIC).name}")


def believed(folder: Path, tell: bool = True) -> dict[str, Key]:
    """The trusted keys by id. A damaged file makes none trusted and keeps none out; it is told, unless `tell` is False.

    Raises BundleRefused for two files that say different things about one key.
    """
    files = _public_files(folder / TRUSTED)
    for path in files if tell else ():
        if why := _wrong(path):
            log(f"left out: {why}; {cure(folder, path)}")
    try:
        return by_id(_sound(files))
    except Refused as told:
        raise BundleRefused(str(told)) from None


def _own_files(folder: Path) -> list[Path]:
    """Public halves, though a file may be missing."""
    return [path.with_suffix(PUBLIC) for path in sorted(folder.glob(f"*{PRIVATE}"))]


def _public_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{PUBLIC}"))


def _sound(files: Sequence[Path]) -> dict[Path, Key]:
    """The keys in those of the files that are whole."""
    found = {}
    for path in files:
        with suppress(Refused):
            found[path] = read_key(path)
    return found


def _wrong(path: Path) -> str | None:
    """Why a file is no public key."""
    try:
        read_key(path)
    except Refused as told:
        return str(told)
    return None


def _unwritable(folder: Path, error: OSError) -> WorkDirError:
    return WorkDirError(f"{folder}: cannot be written ({error.strerror}); choose another --keys")


def _read(path: Path) -> Key:
    try:
        return read_key(path)
    except Refused as told:
        raise BundleRefused(str(told)) from None

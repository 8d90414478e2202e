"""Whom to believe: public keys as small JSON files, the folder of those that are trusted, and JSON read strictly.

A key's file is signed by the key itself, so nobody else can give it another name or a later last day.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .ed25519 import verified

KEY_BYTES = 32
LARGEST_KEY = 4096  # bytes of a key's file
LONGEST_NUMBER = 20  # digits of an integer in JSON
PUBLIC = ".pub"
REVOKED = ".revoked"  # behind the id of a key that is trusted no longer, in the folder of keys


class Refused(Exception):
    """Why a bundle or a key is not accepted: one plain sentence, which no file's content can make a terminal obey."""

    def __init__(self, told: str) -> None:
        super().__init__("".join(char if char.isprintable() else ascii(char)[1:-1] for char in told))


class Key(NamedTuple):
    """A public key that somebody decided to trust until the end of the day `expires`.

    signature: of `statement` by the key itself; whoever makes a Key of what others wrote has checked it (`read_key`).
    """

    name: str
    public: bytes
    created: date
    expires: date
    signature: bytes = b""

    @property
    def key_id(self) -> str:
        """16 hex digits: what a signature names its key by."""
        return hashlib.sha256(self.public).hexdigest()[:16]

    @property
    def statement(self) -> bytes:
        """What a key signs about itself. Its first line tells it from a manifest, which the same key signs too."""
        told = [self.name, self.public.hex(), self.created.isoformat(), self.expires.isoformat()]
        return b"toolchain public key\n" + json.dumps(told).encode("ascii")


def key_text(key: Key) -> str:
    """The file of a public key, which `read_key` reads."""
    return json.dumps({"name": key.name, "key_id": key.key_id, "public_key": key.public.hex(),
                       "created": key.created.isoformat(), "expires": key.expires.isoformat(),
                       "signature": key.signature.hex()}, indent=1) + "\n"


def read_key(path: Path) -> Key:
    """The public key in `path`. Raises Refused for what is no such file, and for one that says what its key did not."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_KEY + 1)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None
    content = strict_json(text[:LARGEST_KEY], str(path))
    if "public_key" in content and "signature" not in content:
        raise Refused(f"{path}: is not signed by the key itself, so its name and dates prove nothing; make a new key "
                      "(toolchain keys new NAME) and trust that one's .pub file")
    try:
        key = Key(str(content["name"]), bytes.fromhex(content["public_key"]), date.fromisoformat(content["created"]),
                  date.fromisoformat(content["expires"]), bytes.fromhex(content["signature"]))
        told = content["key_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path}: is no public key ({type(error).__name__}: {error}); expected name, key_id, public_key, "
                      "created, expires and signature, as `toolchain keys new` writes them") from None
    if not key.name.isprintable() or len(key.public) != KEY_BYTES or told != key.key_id:
        raise Refused(f"{path}: its key_id does not belong to its public_key; the file was altered")
    if not verified(key.public, key.signature, key.statement):
        raise Refused(f"{path}: the key's signature of its own name and dates ({key.created} to {key.expires}) does "
                      "not hold; the file was altered: get it again from whoever made the key")
    return key


def trusted_keys(folder: Path) -> dict[str, Key]:
    """The keys in `folder`, by id; none where there is no such folder.

    Raises Refused for a damaged file, and for two files that say different things about one key.
    """
    return by_id({path: read_key(path) for path in sorted(folder.glob(f"*{PUBLIC}"))})


def revoked(folder: Path) -> set[str]:
    """The ids of keys that somebody decided to trust no longer."""
    return {mark.stem for mark in folder.glob("[0-9a-f]" * 16 + REVOKED)}


def by_id(files: Mapping[Path, Key]) -> dict[str, Key]:
    """The keys by id. Raises Refused for two files that say different things about one key."""
    found: dict[str, Key] = {}
    places: dict[str, Path] = {}
    for path, key in files.items():
        if found.setdefault(key.key_id, key) != key:
            other = found[key.key_id]
            raise Refused(f"{path}: this key ({key.name}, until {key.expires}) is trusted already by "
                          f"{places[key.key_id].name} ({other.name}, until {other.expires}); delete one of the two")
        places.setdefault(key.key_id, path)
    return found


def strict_json(text: bytes, place: str) -> dict[str, Any]:
    """A JSON object in UTF-8 without double keys, NaN, infinity or endless numbers. Raises Refused, naming `place`."""
    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else _not_finite(number)

    def short(number: str) -> int:
        return int(number) if len(number) <= LONGEST_NUMBER else _not_finite(number)

    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_float=finite, parse_int=short,
                             parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{place}: is no JSON that can be relied on ({str(error)[:200] or type(error).__name__})"
                      ) from None
    if not isinstance(content, dict):
        raise Refused(f"{place}: expected a JSON object, found {type(content).__name__}")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands in it twice")
    return content


def _not_finite(number: str) -> NoReturn:
    raise ValueError(f"{number[:20]} is no number to compute with")



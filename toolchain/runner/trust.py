"""Whom to believe: public keys as small JSON files, the folder of those that are trusted, and JSON read strictly."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

KEY_BYTES = 32
LARGEST_KEY = 4096  # bytes of a key's file
LONGEST_NUMBER = 20  # digits of an integer in JSON
PUBLIC = ".pub"


class Refused(Exception):
    """Why a bundle or a key is not accepted: one plain sentence, which no file's content can make a terminal obey."""

    def __init__(self, told: str) -> None:
        super().__init__("".join(char if char.isprintable() else ascii(char)[1:-1] for char in told))


class Key(NamedTuple):
    """A public key that somebody decided to trust until the end of the day `expires`."""

    name: str
    public: bytes
    expires: date

    @property
    def key_id(self) -> str:
        """16 hex digits: what a signature names its key by."""
        return hashlib.sha256(self.public).hexdigest()[:16]


def key_text(key: Key) -> str:
    """The file of a public key, which `read_key` reads."""
    return json.dumps({"name": key.name, "key_id": key.key_id, "public_key": key.public.hex(),
                       "expires": key.expires.isoformat()}, indent=1) + "\n"


def read_key(path: Path) -> Key:
    """The public key in `path`. Raises Refused for what is no such file, and for one whose id is not its key's."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_KEY + 1)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None
    content = strict_json(text[:LARGEST_KEY], str(path))
    try:
        key = Key(str(content["name"]), bytes.fromhex(content["public_key"]), date.fromisoformat(content["expires"]))
        told = content["key_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path}: is no public key ({type(error).__name__}: {error}); expected name, key_id, public_key "
                      "and expires, as `toolchain keys new` writes them") from None
    if not key.name.isprintable() or len(key.public) != KEY_BYTES or told != key.key_id:
        raise Refused(f"{path}: its key_id does not belong to its public_key; the file was altered")
    return key


def trusted_keys(folder: Path) -> dict[str, Key]:
    """The keys in `folder`, by id; none where there is no such folder. Raises Refused for a damaged file."""
    return {key.key_id: key for key in map(read_key, sorted(folder.glob(f"*{PUBLIC}")))}


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



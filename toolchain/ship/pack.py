"""Writing a bundle: the one form that toolchain/runner/bundle.py reads, so that equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolchain.errors import BundleRefused, RecipeError, WorkDirError
from toolchain.files import refuse_other, sha256_file
from toolchain.runner.bundle import (
    BLOCK,
    END,
    LARGEST_BUNDLE,
    LOCAL,
    MANIFEST,
    MOST_FILES,
    SIGNATURE,
    Member,
    central_header,
    in_order,
    local_header,
    open_bundle,
)
from toolchain.runner.trust import Key, Refused

Files = Mapping[str, bytes | Path]  # what a bundle holds, by name


def manifest_text(content: Mapping[str, Any], files: Files, key: Key) -> bytes:
    """manifest.json: `content`, the key, and size and SHA-256 of every file."""
    listed = {name: {"bytes": _size(file), "sha256": _sha256(file)} for name, file in files.items()}
    whole = {**content, "schema_version": 1, "key_id": key.key_id, "files": listed}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def refuse_replaced(path: Path) -> None:
    """Raise RecipeError where a file is there that is no bundle, be it a damaged one; WorkDirError."""
    magic, name = b"PK\3\4", MANIFEST.encode()  # of the first file in it
    refuse_other(path, "a bundle", lambda content: content.startswith(magic) and content.startswith(name, LOCAL.size))


def write_bundle(
    path: Path, content: Mapping[str, Any], files: Files, key: Key, sign: Callable[[bytes], bytes]
) -> None:
    """Write the bundle at `path`, verified, or nothing. sign: bytes -> the Ed25519 signature of `key`.

    Raises RecipeError (more than a bundle can hold; another file is there), WorkDirError (it cannot be written),
    BundleRefused (its files do not fit together).
    """
    refuse_replaced(path)
    manifest = manifest_text(content, files, key)
    everything = {**files, MANIFEST: manifest, SIGNATURE: bytes.fromhex(key.key_id) + sign(manifest)}
    if sum(map(_size, everything.values())) > LARGEST_BUNDLE - (1 << 20) or len(everything) > MOST_FILES:
        raise RecipeError(f"{path}: {len(everything)} files of {sum(map(_size, everything.values()))} bytes, a bundle "
                          f"holds {MOST_FILES} of {LARGEST_BUNDLE} bytes at most")
    if path.exists() and not path.is_file():
        raise WorkDirError(f"{path}: not a regular file, which a bundle must be to be written whole; choose another -o")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # two may ship to one place at the same time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as out:
            _write(out, everything)
        open_bundle(part, {key.key_id: key})
        os.replace(part, path)
    except Refused as told:
        raise BundleRefused(f"nothing was shipped: {told}") from None
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be written ({error.strerror}); choose another -o FILE") from None
    finally:
        with suppress(OSError):  # there is no such folder
            part.unlink(missing_ok=True)


def _write(out: Any, files: Files) -> None:
    directory = b""
    for name in in_order(files):
        member = Member(name, 0, _size(files[name]), _crc(files[name]))
        directory += central_header(member, out.tell())
        out.write(local_header(member))
        for block in _blocks(files[name]):
            out.write(block)
    start, count = out.tell(), len(files)
    out.write(directory + END.pack(b"PK\5\6", 0, 0, count, count, len(directory), start, 0))


def _blocks(file: bytes | Path) -> Any:
    if isinstance(file, bytes):
        yield file
        return
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            yield block


def _crc(file: bytes | Path) -> int:
    crc = 0
    for block in _blocks(file):
        crc = zlib.crc32(block, crc)
    return crc


def _size(file: bytes | Path) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _sha256(file: bytes | Path) -> str:
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else sha256_file(file)

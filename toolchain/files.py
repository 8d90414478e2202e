"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from toolchain.errors import RecipeError, WorkDirError

COPIED_AT_ONCE = 1 << 30  # bytes
LOOKED_AT = 64 << 20  # bytes of a file that may be replaced; no JSON of ours is larger


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: a reader sees the old file or the new one, never half of it.

    The half file's name is fixed, so what a killed process left there is overwritten by the next one. What is there
    and no regular file (a pipe, /dev/stdout) is written to, never replaced.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """The same for text, as UTF-8 with \\n line ends."""
    write_bytes(path, text.encode("utf-8"))


def deliver(path: Path, text: str, other: str = "file") -> None:
    """Write what a user asked for where they asked for it, in a folder that is made where it is missing. other: than
    which to choose another where that cannot be. Raises WorkDirError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be written ({error.strerror}); choose another {other}") from None


def refuse_other(path: Path, kind: str, ours: Callable[[bytes], bool]) -> None:
    """Keep a file that is of another kind than what would replace it. ours: whether a file's first 64 MiB are of the
    `kind` that is written; an empty file, and what is no regular file, stand in nobody's way.

    Raises RecipeError; WorkDirError where that cannot be told.
    """
    if not os.path.isfile(path):
        return
    try:
        with path.open("rb") as file:
            content = file.read(LOOKED_AT)
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be read ({error.strerror}), so it is not replaced; choose another file"
                           ) from None
    if content and not ours(content):
        raise RecipeError(f"{path}: exists and is not {kind}, which would replace it; choose another file, or delete "
                          "this one")


def json_with(*keys: str) -> Callable[[bytes], bool]:
    """Whether a file is a JSON object with all of these keys."""
    def holds(content: bytes) -> bool:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and set(keys) <= set(found)

    return holds


def copy_whole(source: Path, target: Path) -> None:
    """A file of its own that appears whole; on btrfs and XFS the kernel lets both share blocks until one is changed."""
    os.replace(copy_beside(source, target), target)


def copy_beside(source: Path, target: Path) -> Path:
    """The same up to the rename: what `os.replace` puts in the place of `target`."""
    part = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as read, part.open("wb") as write:
            while os.copy_file_range(read.fileno(), write.fileno(), COPIED_AT_ONCE):
                pass
        whole = part.stat().st_size == source.stat().st_size
    except (AttributeError, OSError):  # not on Linux, or not between these file systems
        whole = False
    if not whole:
        shutil.copyfile(source, part)
    return part


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read a MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

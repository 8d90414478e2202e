"""The files of this machine that are sent or fetched, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.errors import WorkDirError

CHUNK = 1 << 20  # bytes on their way at a time; what a cut can cost


def piece(source: Path | bytes, at: int) -> bytes:
    """Up to CHUNK bytes from byte `at` on. Raises WorkDirError."""
    if isinstance(source, bytes):
        return source[at : at + CHUNK]
    with here(source), open(source, "rb") as file:
        file.seek(at)
        return file.read(CHUNK)


def append(path: Path, block: bytes) -> None:
    """Put the bytes at the end of the file. Raises WorkDirError."""
    with here(path), open(path, "ab") as file:
        file.write(block)


@contextmanager
def here(path: Path) -> Iterator[None]:
    """A failure of this machine's own disk is none of the line's. Raises WorkDirError."""
    try:
        yield
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be read or written ({error.strerror})") from None

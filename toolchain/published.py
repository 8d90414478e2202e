"""published.json: the digest of every file that a finished build shows; who reads one knows that it is the build's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from toolchain.errors import DigestMismatch, WorkDirError
from toolchain.files import sha256_file, write_text

FILE, REPORT = "published.json", "report.json"


def digests(build: Path) -> dict[str, str]:
    """SHA-256 of each file by its name below the build's folder. Raises WorkDirError."""
    path = build / FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        if not all(isinstance(word, str) for word in (*found, *found.values())):
            raise ValueError("expected names and their SHA-256")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise WorkDirError(f"{path}: cannot be read ({error}), so no file of this build can be checked; run the build "
                           "again") from None


def write_digests(build: Path, written: Mapping[str, str]) -> None:
    """The same, written."""
    write_text(build / FILE, json.dumps(dict(written), indent=1, sort_keys=True))


def record(build: Path, *names: str) -> None:
    """Add the digests of files that a build itself wrote below its folder, such as its report. Raises WorkDirError."""
    write_digests(build, {**digests(build), **{name: sha256_file(build / name) for name in names}})


def proven(build: Path, name: str) -> Path:
    """The file `name` below the build's folder, after comparing it with what the build wrote down.

    Raises WorkDirError (it is missing, or its build did not finish), DigestMismatch (it was altered).
    """
    path, written = build / name, digests(build)
    if not path.is_file():
        raise WorkDirError(f"{path}: is missing; run the build again with this version: finished stages are kept")
    if name not in written:
        raise WorkDirError(f"{build / FILE}: does not tell the SHA-256 of {name}: the last build there did not "
                           "finish, or an earlier version made it; run the build again")
    if (found := sha256_file(path)) != written[name]:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {written[name][:16]} was written; the file was "
                             "altered: delete it and run the build again")
    return path

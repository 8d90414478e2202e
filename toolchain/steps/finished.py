"""The folder of a finished build, read by another one."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain.errors import DigestMismatch, WorkDirError
from toolchain.files import sha256_file

STUDENT = "student"  # folder of the float network: model.safetensors and architecture.json


def check_student(build: Path) -> None:
    """Prove that the float network below `build` is the one that was written. Raises DigestMismatch, WorkDirError."""
    for name, expected in _published(build).items():
        file = build / name
        if file.parent == build / STUDENT and file.is_file() and (found := sha256_file(file)) != expected:
            raise DigestMismatch(f"{file}: SHA-256 is {found[:16]}, but {expected[:16]} was written; the file was "
                                 "altered: delete it and build again")


def _published(build: Path) -> dict[str, str]:
    """Digest of each file that the build published, by its name below the build's folder."""
    path = build / "published.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WorkDirError(f"{path}: cannot be read ({error}), so no file of this build can be checked; build it again "
                           "into an empty folder") from None

"""The folder of a finished build, read by another one."""

from __future__ import annotations

from pathlib import Path

from toolchain.published import digests, proven

STUDENT = "student"  # folder of the float network: model.safetensors and architecture.json


def check_student(build: Path) -> None:
    """Prove that the float network below `build` is the one that was written. Raises DigestMismatch, WorkDirError."""
    for name in digests(build):
        if (build / name).parent == build / STUDENT and (build / name).is_file():
            proven(build, name)

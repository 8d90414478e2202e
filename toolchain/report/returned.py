"""What came back from a device, held against the digests that its result tells."""

from __future__ import annotations

from pathlib import Path

from toolchain.errors import DigestMismatch, WorkDirError
from toolchain.files import sha256_file
from toolchain.report.devices import DeviceEngine, DeviceResult

RECORD = "engine.json"


def prove(place: Path, device: DeviceResult) -> None:
    """Every engine, the answers and the times in `place`, RUN/devices/NAME. Raises WorkDirError, DigestMismatch."""
    for engine in device.engines:
        if engine.built:
            _prove_engine(place / "engines" / engine.name, engine, device.name)
    for file in device.files:
        proven(place / file, device)


def proven(path: Path, device: DeviceResult) -> Path:
    """A file of samples that came back. Raises WorkDirError (missing), DigestMismatch (altered)."""
    again = f"build again with --on {device.name}"
    if not path.is_file():
        raise WorkDirError(f"{path}: is missing; {again}")
    if path.name not in device.files:
        raise WorkDirError(f"{path}: the report does not tell its SHA-256, as an earlier version wrote it; {again}")
    if (found := sha256_file(path)) != device.files[path.name]:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {device.files[path.name][:16]} came from the "
                             f"device; the file was altered: {again}")
    return path


def _prove_engine(folder: Path, engine: DeviceEngine, device: str) -> None:
    files = [path for path in sorted(folder.glob("engine.*")) if path.name != RECORD]
    if not files:
        raise WorkDirError(f"{folder}: its engine is missing; build again with --on {device}")
    if all(sha256_file(path) != engine.sha256 for path in files):
        raise DigestMismatch(f"{files[0]}: is not the engine that came from {device}; the file was altered: build "
                             f"again with --on {device}")

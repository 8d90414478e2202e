"""published.json: the digest of every file that a finished build shows; who reads one knows that it is the build's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.errors import DigestMismatch, RecipeError, WorkDirError, nearest
from toolchain.files import copy_beside, sha256_file, write_text

FILE, REPORT = "published.json", "report.json"
ORIGIN = "origin.json"  # where the build found its data: true of this machine only, so it is proven by nothing


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


def refuse_altered(build: Path, name: str, wanted: str) -> None:
    """Raise DigestMismatch where DIR/name is neither what was published nor what is `wanted`."""
    written = _lenient(build).get(name)
    if written and (build / name).exists() and (found := sha256_file(build / name)) not in (written, wanted):
        raise DigestMismatch(f"{build / name}: SHA-256 is {found[:16]}, but {written[:16]} was written; the file was "
                             "altered: delete it and run the same command again")


def show(build: Path, files: Mapping[str, tuple[Path, str] | None], beside: bool = False) -> None:
    """Put a copy of each source, with its SHA-256, at its name below the build's folder; None: take that away.

    beside: no report is about them. Else no report is proven from here on until the build has recorded its own; what
    takes long is done before. A file to take away that is not ours, or was altered, stays.
    """
    parts = {}
    for name, entry in files.items():
        target = build / name  # a hard link if an earlier version made it
        if entry and (not target.exists() or target.samefile(entry[0]) or sha256_file(target) != entry[1]):
            target.parent.mkdir(parents=True, exist_ok=True)
            parts[name] = copy_beside(entry[0], target)
    before = _lenient(build)
    written = {name: sha256 for name, sha256 in before.items() if beside or name != REPORT}
    if REPORT in before and not beside:
        write_digests(build, written)
    after = {**written, **{name: entry[1] for name, entry in files.items() if entry}}
    for name in (name for name, entry in files.items() if not entry):
        ours = after.pop(name, None)
        if ours and (build / name).is_file() and sha256_file(build / name) == ours:
            (build / name).unlink()
    for name, part in parts.items():
        os.replace(part, build / name)
    if after != written:
        write_digests(build, after)


def finished(build: Path) -> bool:
    """Whether a build that is done shows its files there."""
    return REPORT in _lenient(build) and (build / REPORT).is_file()


def write_origin(build: Path, data_roots: Sequence[Path]) -> None:
    """Write down where the build looked its data up."""
    write_text(build / ORIGIN, json.dumps({"data_roots": [str(root.absolute()) for root in data_roots]}, indent=1))


def data_roots_of(build: Path) -> list[Path]:
    """The same, read; none of a build of an earlier version."""
    try:
        return [Path(root) for root in json.loads((build / ORIGIN).read_text(encoding="utf-8"))["data_roots"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def refuse_missing(build: Path) -> None:
    """Raise RecipeError where there is no such folder."""
    if not build.is_dir():
        beside = [path.name for path in build.parent.iterdir()] if build.parent.is_dir() else []
        raise RecipeError(f"{build}: no such folder{nearest(build.name, beside)}; expected the folder of a finished "
                          "build, such as build/vgg11_int8")


def report_file(build: Path) -> Path:
    """The report of the build in this folder, proven. Raises RecipeError, WorkDirError, DigestMismatch."""
    refuse_missing(build)
    if not (build / REPORT).is_file() and not (build / FILE).is_file():
        raise WorkDirError(f"{build}: has no {REPORT}; expected the folder of a finished build, such as "
                           "build/vgg11_int8")
    return proven(build, REPORT)


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


def _lenient(build: Path) -> dict[str, str]:
    """The same; none where there is no such file, or a damaged one."""
    try:
        return digests(build)
    except WorkDirError:
        return {}

"""The output folder: stages cached by content, made resumable by atomic renames.

    DIR/stages/<stage>-<key>/          a finished stage, with stage.json (digests of its files)
    DIR/stages/<stage>-<key>.partial/  a stage under way; an interrupted one goes on from what lies there
    DIR/engines/, DIR/onnx/, DIR/…     what people look for, copied from the stages

key = SHA-256 of the recipe section, the keys of the stages it reads, the code of the rooms that ran and the versions
of the packages that matter to it, so a changed engine list retrains nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from toolchain.console import log
from toolchain.errors import DigestMismatch, ToolchainError, WorkDirError
from toolchain.files import sha256_file, write_text
from toolchain.published import finished, refuse_altered, show, write_origin

PACKAGE = Path(__file__).parent
POLL_S = 0.2
Make = Callable[[Path], str | None]


@dataclass(frozen=True)
class Stage:
    """One step of a build.

    folder: where its files are. cached: it was not run this time. seconds: what making it took. needs: the stages,
    files and packages it reads, for `toolchain plan`.
    """

    name: str
    key: str
    folder: Path
    cached: bool
    seconds: float
    needs: tuple[str, ...]


@dataclass
class WorkDir:
    """The folder of one build. dry: only say what would run. cache: where stages live (default: DIR/stages). anew:
    names of stages that are made though they are finished; the old one goes when the new one is done.

    Where a finished build shows its files, they stay until `show` puts this one's in their place.
    """

    out: Path
    cache: Path | None = None
    dry: bool = False
    anew: Sequence[str] = ()
    stages: list[Stage] = field(default_factory=list)
    _waiting: dict[str, tuple[Path, str] | None] = field(default_factory=dict)
    _recipe: str = ""
    _data_roots: Sequence[Path] = ()

    @property
    def stage_root(self) -> Path:
        """Folder that holds the stages."""
        return self.cache or self.out / "stages"

    def stage(
        self, name: str, make: Make, *, section: Any = None, inputs: Sequence[Stage] = (),
        rooms: Sequence[str] = (), packages: Sequence[str] = (), distributed: bool = False,
    ) -> Stage:
        """The finished stage `name`: from the cache, or by calling `make(folder)`, whose answer is logged.

        section: JSON-able parameters. rooms: our files and folders whose code decides the result. packages: installed
        ones whose version does. distributed: every rank of an `accelerate launch` takes part, else only rank 0 works.
        Raises DigestMismatch when a cached file was altered; WorkDirError when the disk is full or not writable.
        """
        key = stage_key(name, section, [s.key for s in inputs], rooms, packages)
        folder = self.stage_root / f"{name}-{key[:16]}"
        first = all(one.folder != folder for one in self.stages)
        again = first and name in self.anew
        cached = folder.is_dir() and not again
        if not cached and not self.dry:
            with _disk_errors(folder):
                _make(name, key, folder, make, distributed, again)
        seconds = _verify(folder)["seconds"] if folder.is_dir() and not self.dry else 0.0
        if cached and first and not self.dry:
            log(f"{name:<57} cached")
        stage = Stage(name, key, folder, cached, seconds, (*(s.name for s in inputs), *packages))
        self.stages.append(stage)
        return stage

    def start(self, resolved_recipe: str, data_roots: Sequence[Path] = ()) -> None:
        """Make the output folder; the recipe with every default, and where data is looked up, are written down there.
        Raises WorkDirError.
        """
        self._recipe, self._data_roots = resolved_recipe, data_roots
        with _disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            if not finished(self.out):
                self._write_start()

    def publish(self, source: Path, name: str, beside: bool = False) -> Path:
        """Show a stage's file as DIR/name. beside: the report is not about it. Raises DigestMismatch, WorkDirError.

        A copy, though it takes the room twice: under a hard link whoever edits DIR/name in place edits the cache.
        """
        target = self.out / name
        if self.dry or rank() != 0:
            return target
        with _disk_errors(target):
            entry = source, _recorded(source)
            refuse_altered(self.out, name, entry[1])
            self._show({name: entry}, beside)
        return target

    def withdraw(self, name: str) -> None:
        """Remove DIR/name where an earlier build published it; a file that is not ours, or was altered, stays."""
        if not self.dry and rank() == 0:
            with _disk_errors(self.out / name):
                self._show({name: None})

    def show(self) -> None:
        """Put everything in the place of what an earlier build shows, whose report counts no more. The build's own
        report comes next.
        """
        with _disk_errors(self.out):
            show(self.out, self._waiting)
            self._waiting.clear()
            self._write_start()

    def _show(self, files: dict[str, tuple[Path, str] | None], beside: bool = False) -> None:
        if finished(self.out) and not beside:
            self._waiting |= files
        else:
            show(self.out, files, beside)

    def _write_start(self) -> None:
        write_text(self.out / "recipe.resolved.yaml", self._recipe)
        write_origin(self.out, self._data_roots)


def stage_key(name: str, section: Any, inputs: Sequence[str], rooms: Sequence[str], packages: Sequence[str]) -> str:
    """Content identity of a stage: 64 hex digits."""
    content = {"name": name, "section": section, "inputs": list(inputs), "code": {r: code_digest(r) for r in rooms},
               "versions": {p: package_version(p) for p in packages}}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache
def code_digest(room: str) -> str:
    """SHA-256 over the Python files of one room: a folder or a file below the package."""
    place = PACKAGE / room
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@lru_cache
def package_version(package: str) -> str:
    """Installed version, or "absent"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def rank() -> int:
    """This process's rank in a distributed run; 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def sha256_tree(path: Path) -> str:
    """SHA-256 of a file, or over the names and bytes of all files in a folder."""
    if path.is_file():
        return sha256_file(path)
    names = {p.relative_to(path).as_posix(): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder for one build at a time; the lock goes with the process, even by kill -9."""
    with _disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / ".lock", "w")
    with handle:
        if not _take(handle, wait=False):
            raise WorkDirError(f"{out}: another build is using this folder; wait for it, or choose another --out")
        yield


def _take(handle: IO[str], wait: bool) -> bool:
    """Lock an open file; False when another process holds it and `wait` is False."""
    try:
        import fcntl
    except ImportError:
        return True  # no flock on Windows: renames stay atomic, two builds at once only waste work
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(name: str, key: str, folder: Path, make: Make, distributed: bool, again: bool) -> None:
    if rank() != 0 and not distributed:
        while not folder.is_dir():  # rank 0 makes it; if rank 0 dies, the launcher ends this process too
            time.sleep(POLL_S)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    if rank() != 0:
        make(folder.with_name(folder.name + ".partial"))
        while not folder.is_dir():
            time.sleep(POLL_S)
        return
    lock = folder.with_name(folder.name + ".lock")
    with open(lock, "w") as handle:  # another build may share the cache; ours then takes what it made
        if not _take(handle, wait=False):
            log(f"{name}: waiting for another build that is making it in {folder.parent}")
            _take(handle, wait=True)
        if again or not folder.is_dir():
            _make_alone(name, key, folder, make)
    lock.unlink(missing_ok=True)


def _make_alone(name: str, key: str, folder: Path, make: Make) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(exist_ok=True)
    shutil.rmtree(partial / "old", ignore_errors=True)  # of a run that was killed between the two renames
    start = time.monotonic()
    summary = make(partial)
    seconds = round(time.monotonic() - start, 3)
    for leftover in partial.rglob(".*.part"):  # of an interrupted run
        leftover.unlink()
    files = {p.relative_to(partial).as_posix(): sha256_file(p) for p in sorted(partial.rglob("*"))
             if p.is_file() and p.name != "stage.json"}
    record = {"name": name, "key": key, "seconds": seconds, "files": files}
    write_text(partial / "stage.json", json.dumps(record, indent=1, sort_keys=True))
    with suppress(FileNotFoundError):
        folder.rename(partial / "old")  # of a stage that is made anew
    os.rename(partial, folder)
    shutil.rmtree(folder / "old", ignore_errors=True)
    log(f"{name:<57} {seconds:7.1f} s  {summary or ''}".rstrip())


def _verify(folder: Path) -> dict[str, Any]:
    """The record of a finished stage, after checking every file against it."""
    record = _read_json(folder / "stage.json")
    if not isinstance(record.get("files"), dict) or "seconds" not in record:
        raise DigestMismatch(f"{folder}: its stage.json is missing or damaged; delete this folder and run again")
    for name, expected in record["files"].items():
        path = folder / name
        found = sha256_file(path) if path.is_file() else "missing"
        if found != expected:
            raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {expected[:16]} was recorded when it was made; "
                                 f"the file was altered: delete {folder} and run the same command again")
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recorded(source: Path) -> str:
    """Digest of a stage's file, which `stage` has just verified; of any other file it is computed."""
    record = _read_json(source.parent / "stage.json").get("files")
    return str(record[source.name]) if isinstance(record, dict) and source.name in record else sha256_file(source)


@contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a plain sentence; what is finished stays."""
    try:
        yield
    except ToolchainError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number == errno.ENOSPC or "No space left on device" in str(error):
            raise WorkDirError(f"{place}: the disk is full; free some space and run the same command again, "
                               "finished stages are kept") from error
        refused = number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
        unmakable = number == errno.ENOENT and place.is_relative_to(getattr(error, "filename", None) or place / "x")
        if number and (refused or unmakable):  # /proc answers "no such file" where others say "permission denied"
            raise WorkDirError(f"{place}: cannot be written ({os.strerror(number)}); choose another --out or mend the "
                               "permissions") from error
        raise

"""What `toolchain bench` is given: engines of finished builds, engine folders, and ONNX files as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from toolchain import console
from toolchain.engines import backend, load_engine
from toolchain.engines.record import RECORD, read_record
from toolchain.errors import EngineError, RecipeError, nearest
from toolchain.files import sha256_file
from toolchain.recipe.schema import Engine

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

ENGINES = "engines"


@dataclass(frozen=True)
class Entry:
    """One file to time. name: what tables call it. path: an engine's folder, or an ONNX file that `runtime` runs."""

    name: str
    path: Path
    runtime: str

    @property
    def sha256(self) -> str:
        """Of the file that is timed."""
        return sha256_file(self.path) if self.path.is_file() else read_record(self.path).sha256


def find_entries(
    words: Sequence[str], runtimes: Sequence[str] = ("onnxruntime",), here: bool = True
) -> list[Entry]:
    """What `words` name, in that order: DIR (every engine of a build that runs here), DIR:ENGINE, an engine's folder
    or its file, or FILE.onnx, once for each of `runtimes`. here: False: where an engine runs is judged later.

    Raises RecipeError for what is none of them, EngineError for an engine that cannot run here.
    """
    found = [entry for word in words for entry in _entries(word, runtimes, here)]
    names = [entry.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{twice}: named twice; each file is timed once (an A/A check is part of every measurement)")
    return found


def _entries(word: str, runtimes: Sequence[str], here: bool) -> list[Entry]:
    folder, colon, engine = word.rpartition(":")
    path = Path(word)
    if colon and not path.exists() and (Path(folder) / ENGINES).is_dir():
        return [_engine(Path(folder) / ENGINES, engine, word, here)]
    if path.is_file() and (path.parent / RECORD).is_file() and path.name != RECORD:
        return [_runnable(path.parent, path.as_posix(), here)]
    if path.is_file() and path.suffix.lower() == ".onnx":
        several = len(runtimes) > 1
        return [Entry(f"{path.as_posix()} ({runtime})" if several else path.as_posix(), path, runtime)
                for runtime in runtimes]
    if (path / RECORD).is_file():
        return [_runnable(path, path.as_posix(), here)]
    if (path / ENGINES).is_dir():
        return _all_engines(path, here)
    if path.exists():
        raise RecipeError(f"{path}: neither an engine nor an .onnx file; name a build's folder (DIR or DIR:ENGINE), an "
                          f"engine's folder with its {RECORD}, or an .onnx file")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise RecipeError(f"{path}: does not exist{nearest(path.name, beside)}; name a build's folder (DIR or DIR:ENGINE), "
                      "an engine's folder, or an .onnx file")


def _engine(engines: Path, name: str, word: str, here: bool) -> Entry:
    folder = engines / name
    if not (folder / RECORD).is_file():
        names = sorted(p.name for p in engines.iterdir())
        raise RecipeError(f"{word}: no such engine{nearest(name, names)}; expected {', '.join(names)}")
    return _runnable(folder, word, here)


def _runnable(folder: Path, name: str, here: bool) -> Entry:
    record = read_record(folder)
    if here and (reason := backend(record.runtime).not_runnable(record)):
        raise EngineError(f"{name}: cannot run here: {reason}")
    return Entry(name, folder, record.runtime)


def _all_engines(build: Path, here: bool) -> list[Entry]:
    found, reasons = [], []
    for folder in sorted((build / ENGINES).iterdir()):
        try:
            found.append(_runnable(folder, f"{build.as_posix()}:{folder.name}", here))
        except EngineError as error:
            reasons.append(str(error))
    for reason in reasons:
        console.log(f"left out: {reason}")
    if not found:
        raise EngineError(f"{build}: none of its engines can run here: {'; '.join(reasons) or 'it has none'}")
    return sorted(found, key=lambda entry: ":fp32." not in entry.name)  # the others are compared with the first


@contextmanager
def opened(entries: Sequence[Entry], threads: int) -> Iterator[dict[str, Loaded]]:
    """Every entry's engine by its name, open, its file's digest checked; an ONNX file is copied and run as it is.

    Raises DigestMismatch, EngineError, MissingPackage, RecipeError (no such runtime).
    """
    with TemporaryDirectory(prefix="toolchain-bench-") as scratch, ExitStack() as stack:
        engines = {}
        for index, entry in enumerate(entries):
            folder = entry.path
            if folder.is_file():
                runtime = backend(entry.runtime)
                if why := runtime.missing():
                    raise EngineError(f"{entry.name}: {why}")
                cfg = runtime.targets(TypeAdapter[Engine](Engine).validate_python(
                    {"runtime": entry.runtime, "precision": "fp32"}))  # a name only: the file says what it computes in
                if reason := runtime.not_runnable(cfg):
                    raise EngineError(f"{entry.name}: cannot run here: {reason}")
                folder = Path(scratch) / str(index)
                folder.mkdir()
                try:
                    runtime.build(entry.path, cfg, folder, {})
                except EngineError as error:  # it knows the copy, the user the original
                    copy = str(folder / "engine.onnx")
                    raise EngineError(str(error).replace(copy, str(entry.path))) from None
            engines[entry.name] = stack.enter_context(load_engine(folder, threads))
        yield engines

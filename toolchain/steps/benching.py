"""What `toolchain bench` is given: engines of finished builds, engine folders, and ONNX files as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from toolchain import console
from toolchain.engines import BACKENDS, backend, load_engine
from toolchain.engines.record import RECORD, read_record
from toolchain.errors import EngineError, MissingPackage, RecipeError, nearest
from toolchain.files import copy_whole, sha256_file
from toolchain.recipe.schema import Engine
from toolchain.steps.contestants import meant

if TYPE_CHECKING:
    from toolchain.engines.protocol import Loaded

ENGINES = "engines"


@dataclass(frozen=True)
class Entry:
    """One file to time. name: what tables call it. path: an engine's folder, or an ONNX file that `runtime` runs.
    optional: one of a whole build, which is left out where it cannot run.
    """

    name: str
    path: Path
    runtime: str
    optional: bool = False

    @property
    def sha256(self) -> str:
        """Of the file that is timed."""
        return sha256_file(self.path) if self.path.is_file() else read_record(self.path).sha256


def find_entries(
    words: Sequence[str], runtimes: Sequence[str] = ("onnxruntime",), here: bool = True
) -> list[Entry]:
    """What `words` name, in that order: DIR (every engine of a build that runs here), DIR:ENGINE (also the beginning of
    its name, such as int8, where one that runs here begins so), an engine's folder or its file, or FILE.onnx, once for
    each of `runtimes`. here: False: where an engine runs is judged later.

    Raises RecipeError for what is none of them, EngineError and MissingPackage for an engine that cannot run here.
    """
    if (wrong := next((name for name in runtimes if name not in BACKENDS), None)) is not None:
        raise RecipeError(f"--runtime: found '{wrong}', expected {', '.join(BACKENDS)}{nearest(wrong, BACKENDS)}")
    found = [entry for word in words for entry in _entries(word, runtimes, here)]
    names = [entry.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{twice}: named twice; each file is timed once (an A/A check is part of every measurement)")
    return found


def _entries(word: str, runtimes: Sequence[str], here: bool) -> list[Entry]:
    folder, colon, engine = word.rpartition(":")
    path = Path(word)
    if colon and not path.exists() and Path(folder).is_dir():
        return [_engine(Path(folder), engine, here)]
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


def _engine(build: Path, asked: str, here: bool) -> Entry:
    """The engine of a build whose name is `asked`, or the only one that runs here whose name begins with it."""
    if not (build / ENGINES).is_dir():
        raise RecipeError(f"{build}: holds no {ENGINES}/, so it is no finished build; build it first")
    names = sorted(p.parent.name for p in (build / ENGINES).glob(f"*/{RECORD}"))
    named = meant(asked, names)
    if not named:
        short = {name.partition(".")[0] for name in names}
        raise RecipeError(f"{build}:{asked}: no such engine{nearest(asked, [*names, *short])}; "
                          f"expected {', '.join(names) or 'one, but the build has none'}")
    found, errors = _judged(build, named, here)
    if not found:
        raise errors[0]
    if len(found) > 1:
        raise RecipeError(f"{build}:{asked}: means {len(found)} engines; name one: "
                          f"{' or '.join(entry.path.name for entry in found)}")
    return found[0]


def _judged(build: Path, names: Sequence[str], here: bool) -> tuple[list[Entry], list[EngineError | MissingPackage]]:
    """The engines that can be timed, and why the others cannot."""
    found, errors = list[Entry](), list[EngineError | MissingPackage]()
    for name in names:
        try:
            found.append(_runnable(build / ENGINES / name, f"{build.as_posix()}:{name}", here))
        except (EngineError, MissingPackage) as error:
            errors.append(error)
    return found, errors


def _runnable(folder: Path, name: str, here: bool) -> Entry:
    record = read_record(folder)
    runtime = backend(record.runtime)
    if here and (why := runtime.missing()):
        raise MissingPackage(f"{name}: {why}")
    if here and (reason := runtime.not_runnable(record)):
        raise EngineError(f"{name}: cannot run here: {reason}")
    return Entry(name, folder, record.runtime)


def _all_engines(build: Path, here: bool) -> list[Entry]:
    found, errors = _judged(build, sorted(folder.name for folder in (build / ENGINES).iterdir()), here)
    for error in errors:
        console.log(f"left out: {error}")
    if not found:
        kind = MissingPackage if errors and all(isinstance(e, MissingPackage) for e in errors) else EngineError
        raise kind(f"{build}: none of its engines can run here: {'; '.join(map(str, errors)) or 'it has none'}")
    found = [replace(entry, optional=True) for entry in found]
    return sorted(found, key=lambda entry: ":fp32." not in entry.name)  # the others are compared with the first


@contextmanager
def opened(entries: Sequence[Entry], threads: int, size: int | None = None) -> Iterator[dict[str, Loaded]]:
    """Every entry's engine by its name, open, its file's digest checked; an ONNX file is copied and run as it is.

    size: pixels of a side, where an ONNX file leaves them open. Raises DigestMismatch, EngineError, MissingPackage.
    """
    with TemporaryDirectory(prefix="toolchain-bench-") as scratch, ExitStack() as stack:
        engines = {}
        for index, entry in enumerate(entries):
            folder = entry.path
            if folder.is_file():
                folder = Path(scratch) / str(index)
                _copied(entry, folder, size)
            engines[entry.name] = stack.enter_context(load_engine(folder, threads))
        yield engines


def _copied(entry: Entry, folder: Path, size: int | None) -> None:
    """An engine folder around an ONNX file, with the files that hold its weights."""
    runtime = backend(entry.runtime)
    if why := runtime.missing():
        raise MissingPackage(f"{entry.name}: {why}")
    cfg = runtime.targets(TypeAdapter[Engine](Engine).validate_python(
        {"runtime": entry.runtime, "precision": "fp32"}))  # a name only: the file says what it computes in
    if reason := runtime.not_runnable(cfg):
        raise EngineError(f"{entry.name}: cannot run here: {reason}")
    folder.mkdir()
    for file in weight_files(entry.path):
        place = folder / file.relative_to(entry.path.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(file, place)
    try:
        runtime.build(entry.path, cfg, folder, {"image_size": size})
    except EngineError as error:  # it knows the copy, the user the original
        copy = str(folder / "engine.onnx")
        told = str(error).replace(copy, str(entry.path)).replace(str(folder), str(entry.path.parent))
        raise EngineError(told) from None


def weight_files(path: Path) -> list[Path]:
    """Files beside the ONNX file `path` that hold its weights. None of a damaged file, which is told when it is run.

    Raises EngineError where one is missing, as the runtimes would, in words.
    """
    from google.protobuf.message import DecodeError

    from toolchain.graph.onnx_file import absent_files, external_files

    try:
        absent, found = absent_files(path), external_files(path)
    except (DecodeError, ValueError):
        return []
    if absent:
        raise EngineError(f"{path}: its weights lie in {', '.join(absent)}, which is not in its folder; copy it there")
    return found

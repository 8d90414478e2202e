"""Who stands in a comparison: engines of finished builds and ONNX files, checked before anything is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from toolchain.console import log
from toolchain.engines import backend, load_engine
from toolchain.engines.record import read_record
from toolchain.errors import DataError, DigestMismatch, EngineError, OnnxError, RecipeError, nearest
from toolchain.published import data_roots_of
from toolchain.recipe.load import data_roots
from toolchain.recipe.schema import Data, DataSection, OrtEngine, Recipe
from toolchain.report.schema import Report, load_report
from toolchain.steps.finished import STUDENT, check_student

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset
    from toolchain.engines.protocol import Loaded

REPORT = "report.json"


@dataclass(frozen=True)
class Contestant:
    """One network of a comparison. name: what tables call it. path: a build's folder, or an ONNX file.

    engine: which one of the build. report: the build's. Both are None for an ONNX file.
    """

    name: str
    path: Path
    engine: str | None
    report: Report | None

    def network(self) -> nn.Module | None:
        """The build's float network in eval mode; None where there is none: an ONNX file, or a build of one.

        Raises DigestMismatch when its file was altered, TrainError, RecipeError (a network that only --import knows).
        """
        folder = self.path / STUDENT
        if self.report is None or not folder.is_dir():
            return None
        from toolchain.models import MODELS
        from toolchain.models.store import load_architecture, load_model

        check_student(self.path)
        arch = load_architecture(folder)["model"].get("arch")
        if arch not in MODELS:
            raise RecipeError(f"{self.path}: its network '{arch}' is one of your own; name the file that defines it: "
                              "--import FILE.py")
        return load_model(folder)


def find_contestants(words: Sequence[str], engine: str | None = None) -> list[Contestant]:
    """The network that each of `words` names, in that order: DIR, DIR:ENGINE or FILE.onnx.

    engine: of the builds that name none; None: fp32 on ONNX Runtime. Raises RecipeError for what is neither a finished
    build nor an ONNX file, and for an engine that a build does not have; EngineError for one that cannot run here.
    """
    places = [_place(word) for word in words]
    if engine and all(own or path.is_file() for path, own in places):
        raise RecipeError(f"--engine {engine}: no argument would take it, for each is an ONNX file or names its own "
                          "engine; leave it out")
    reports = [load_report(path / REPORT) if path.is_dir() else None for path, _ in places]
    chosen = [_engine(path, report, own or engine) if report else None
              for (path, own), report in zip(places, reports, strict=True)]
    names = _names([path for path, _ in places], chosen)
    return [Contestant(name, path, one, report)
            for name, (path, _), one, report in zip(names, places, chosen, reports, strict=True)]


def shared_test_set(contestants: Sequence[Contestant], recipe: tuple[Path, Recipe] | None, data_root: Path | None
                    ) -> Dataset:
    """The dataset that all are judged on: the recipe's, else that of the first build, proven to be every build's own.

    recipe: its path and content. Raises RecipeError (neither is there), DataError (as `check_alike`, or no such data).
    """
    from toolchain.data import load_dataset

    first = next((one for one in contestants if one.report), None)
    if recipe:
        origin, cfg = recipe[0], recipe[1].data
        dataset = load_dataset(cfg, data_roots(origin, data_root))
    elif first:
        origin = first.path
        roots = [*data_roots(origin / REPORT, data_root), *data_roots_of(origin)]
        dataset = load_dataset(_data_section(first), list(dict.fromkeys(root.absolute() for root in roots)))
    else:
        raise RecipeError(f"{', '.join(str(one.path) for one in contestants)}: an ONNX file does not say what it is "
                          "judged on; name a recipe with that data: --recipe recipes/vgg11_int8.yaml")
    check_alike(contestants, dataset, origin)
    return dataset


def _data_section(build: Contestant) -> DataSection:
    assert build.report is not None
    try:
        return TypeAdapter[DataSection](Data).validate_python(build.report.recipe.get("data"))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{build.path / REPORT}: recipe.data.{'.'.join(map(str, first['loc']))}: "
                          f"{first['msg'].removeprefix('Value error, ')}; "
                          "name the data with --recipe, or build again with this version") from None


def check_alike(contestants: Sequence[Contestant], dataset: Dataset, origin: Path) -> None:
    """Refuse builds that were not judged on this very test set, by name. origin: the build or recipe it comes from.

    Raises DataError: other classes, another split, or other preprocessing.
    """
    from toolchain.data.preprocess import Preprocess

    for one in contestants:
        if one.report is None:
            continue
        theirs, own = one.report.data, one.path == origin
        if tuple(theirs.classes) != dataset.classes:
            raise DataError(f"{one.path}: found {_classes(theirs.classes, dataset.classes)}, as {origin} has them; "
                            "compare networks of the same classes")
        if theirs.split_sha256 != dataset.split_sha256:
            digests = f"split {theirs.split_sha256[:12]}, expected {dataset.split_sha256[:12]}"
            raise DataError(f"{one.path}: the images found here are not those it was built on ({digests}); point "
                            "--data-root to the same data, or build again" if own else
                            f"{one.path}: found {digests} as of {origin}: other images, or split in another way, are "
                            "no fair comparison; build both from the same data section")
        ours, found = dataset.preprocess.to_json(), Preprocess.load(one.path / "preprocess.json").to_json()
        if odd := next((field for field in ours if ours[field] != found[field]), None):
            raise DataError(f"{one.path}: preprocess.json: {odd}: found {found[odd]}, expected {ours[odd]} as of "
                            f"{origin}; all networks are given the same pixels: build both with the same data.{odd}")


@contextmanager
def opened(contestants: Sequence[Contestant], dataset: Dataset) -> Iterator[dict[str, Loaded]]:
    """Every contestant's engine by its name, open, its file's digest checked.

    Raises DigestMismatch, EngineError, MissingPackage; OnnxError for an ONNX file that does not fit the dataset.
    """
    with TemporaryDirectory(prefix="toolchain-compare-") as scratch, ExitStack() as stack:
        folders = [one.path / "engines" / str(one.engine) if one.report else
                   _onnx_engine(one.path, Path(scratch) / str(index), dataset)
                   for index, one in enumerate(contestants)]
        yield {one.name: stack.enter_context(load_engine(folder))
               for one, folder in zip(contestants, folders, strict=True)}


def _place(word: str) -> tuple[Path, str | None]:
    """The folder or file that a word of the command line names, and the engine behind its colon."""
    folder, colon, engine = word.rpartition(":")
    path, own = (Path(folder), engine) if colon and not Path(word).exists() and Path(folder).exists() \
        else (Path(word), None)
    if path.is_file() and path.suffix.lower() == ".onnx":
        if own is not None:
            raise RecipeError(f"{word}: an ONNX file is run as it is and has no engines; leave ':{own}' out")
        return path, None
    if path.is_dir() and (path / REPORT).is_file():
        return path, own
    if path.is_dir():
        raise RecipeError(f"{path}: holds no {REPORT}, so it is no finished build; finish it with `toolchain build "
                          f"RECIPE --out {path}`, or name a folder that has one")
    if path.exists():
        raise RecipeError(f"{path}: is neither a finished build's folder nor an .onnx file; name one of these")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise RecipeError(f"{path}: does not exist{nearest(path.name, beside)}; expected the folder of a finished build "
                      "(DIR or DIR:ENGINE), or an .onnx file")


def meant(asked: str, names: Iterable[str]) -> list[str]:
    """The name that is `asked`; else all that begin with it, such as int8."""
    known = list(names)
    return [name for name in known if name == asked] or [name for name in known if name.startswith(f"{asked}.")]


def _engine(path: Path, report: Report, asked: str | None) -> str:
    """The name of the engine to run: the one asked for, of which the beginning is enough where one that runs here
    begins so; or fp32 on ONNX Runtime.
    """
    names = [engine.name for engine in report.engines]
    shown = ", ".join(names)
    plain = [e.name for e in report.engines if (e.precision, e.runtime) == ("fp32", "onnxruntime")]
    if asked is None and not plain:
        raise RecipeError(f"{path}: has no fp32 engine of ONNX Runtime, which is the default; choose one with "
                          f"--engine, or as {path}:ENGINE: {shown}")
    named = [] if asked is None else meant(asked, names)
    if asked is not None and not named:
        raise RecipeError(f"{path}: has no engine '{asked}'{nearest(asked, names)}; expected {shown}")
    able = [e.name for e in report.engines if e.built and backend(e.runtime).not_runnable(e) is None]
    if len(several := [name for name in named if name in able]) > 1:
        raise RecipeError(f"{path}: '{asked}' means {len(several)} engines; name one: {' or '.join(several)}")
    preferred = several or named or [name for name in plain if name.endswith(".cpu_x86")] or plain
    engine = next(e for e in report.engines if e.name == preferred[0])
    chosen = engine.name
    if reason := backend(engine.runtime).not_runnable(engine):
        raise EngineError(f"{path}: engine {chosen} cannot run here: {reason}; choose "
                          f"{' or '.join(able) or 'another build, for none of its engines can'}")
    record = read_record(path / "engines" / chosen)
    if engine.sha256 and record.sha256 != engine.sha256:
        raise DigestMismatch(f"{path}: engine {chosen} is {record.sha256[:16]}, but {REPORT} is about "
                             f"{engine.sha256[:16]}; it was replaced or its build did not finish: build again")
    return chosen


def _names(paths: Sequence[Path], engines: Sequence[str | None]) -> list[str]:
    """Short names, no two alike: the folder's or file's, its path where two share that, and an engine but for fp32."""
    last = [path.resolve().name for path in paths]
    names: list[str] = []
    for path, name, engine in zip(paths, last, engines, strict=True):
        shared = len({p.resolve() for p, n in zip(paths, last, strict=True) if n == name}) > 1
        suffix = f":{engine}" if engine and not engine.startswith("fp32.onnxruntime.") else ""
        name = (path.as_posix() if shared else name) + suffix
        seen = sum(n == name or n.startswith(f"{name} (") for n in names)
        names.append(f"{name} ({seen + 1})" if seen else name)
    return names


def _onnx_engine(path: Path, folder: Path, dataset: Dataset) -> Path:
    """An engine folder made from the user's ONNX file, cleaned; theirs is only read."""
    from toolchain.graph.ending import TOLD
    from toolchain.graph.own import read_own_onnx

    folder.mkdir()
    size, classes = dataset.preprocess.image_size, len(dataset.classes)
    info = read_own_onnx(path, folder / "clean.onnx", image_size=size)
    if info["ending"] in TOLD:
        log(f"{path.name}: {TOLD[info['ending']]}")
    if (info["image_size"], info["num_classes"]) != (size, classes):
        raise OnnxError(f"{path}: takes images of {info['image_size']} pixels and has {info['num_classes']} outputs, "
                        f"but the test set has {size} pixels and {classes} classes; compare networks of the same data")
    cfg = OrtEngine(runtime="onnxruntime", precision="fp32")
    backend(cfg.runtime).build(folder / "clean.onnx", cfg, folder, {})
    return folder


def _classes(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes, expected {len(ours)}"
    index = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
    return f"class {index} '{theirs[index]}', expected '{ours[index]}'"

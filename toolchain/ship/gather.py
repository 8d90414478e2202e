"""What goes into a bundle, taken from a finished build. Nothing is built or measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import __version__
from toolchain.engines.record import RECORD, EngineRecord, verify
from toolchain.errors import DigestMismatch, EngineError, LimitsNotHeld, RecipeError, WorkDirError, nearest
from toolchain.files import sha256_file
from toolchain.published import digests, proven, report_file
from toolchain.report.limits import fp32_reference
from toolchain.report.schema import EngineResult, LimitResult, Report, load_report
from toolchain.runner import contents
from toolchain.ship.pack import Files
from toolchain.workdir import code_digest

RUNNER = Path(__file__).parents[1] / "runner"  # goes along as it is: what runs on the device
RUN = "run.py"
ON = ": "  # of a device: "orin: int8.…" is how the report calls an engine there
OF_ENGINE = ("name", "precision", "compute", "runtime", "runtime_version", "target", "device", "engine_bytes",
             "profile", "sha256", "onnx_sha256")


def gathered(
    run: Path, engine: str, portable: bool = False, anyway: bool = False, to: str | None = None
) -> tuple[dict[str, Any], Files]:
    """The manifest's content and the files of the bundle of one engine of the build in `run`.

    engine: its name, or its precision where only one has it. portable: the ONNX file it was built from goes along, for
    devices that build their own. anyway: also where limits were not held; the manifest says so. to: where it goes; if
    the build was judged on a device of that name, limits have to hold there too. Those of other devices stop nothing,
    and stand in the manifest. Raises RecipeError, EngineError, DigestMismatch (a file is not what was reported),
    LimitsNotHeld, WorkDirError (the build is not whole).
    """
    report = load_report(report_file(run))
    result = chosen(run, report, engine)
    record, file = _engine(run, result.name)
    if record.sha256 != result.sha256:
        raise DigestMismatch(f"{file}: SHA-256 is {record.sha256[:16]}, but report.json is about "
                             f"{str(result.sha256)[:16]}; it was replaced or its build did not finish: build again")
    broken = [limit for limit in limits_of(report, result) if limit.held is False]
    stops = [limit for limit in broken if limit.engine.partition(ON)[0] in (result.name, to)]
    if stops and not anyway:
        raise LimitsNotHeld(f"{result.name} does not hold its limits: {'; '.join(_told(stops, result))}; ship it all "
                            "the same with --anyway, and the bundle will say so")
    name = str(report.recipe.get("name"))
    files: dict[str, bytes | Path] = {
        f"engine/{record.engine}": file, contents.ENGINE_RECORD: proven(run, f"engines/{result.name}/{RECORD}"),
        contents.PREPROCESS: proven(run, "preprocess.json"), "recipe.yaml": proven(run, "recipe.resolved.yaml"),
        contents.CLASSES: _json({"classes": report.data.classes}), contents.MEASURED: _json(_measured(report, result)),
        "provenance.json": _json(_provenance(report, record, run)), "sbom.cdx.json": _sbom(name, record, report),
        **_golden(run, result.name, report.data.classes),
        **runner_files(),
    }
    if portable:
        files[contents.PORTABLE] = _with_digest(run, "onnx", record.onnx_sha256)
    facts = {field: getattr(record, field) for field in OF_ENGINE} | {"file": f"engine/{record.engine}"}
    return {"name": name, "engine": facts, "measured": result.measured,
            "limits_not_held": _told(broken, result)}, files


def runner_files() -> dict[str, Path]:
    """What runs on a device, by its place there: run.py, and runner/ beside it."""
    return {path.name if path.name == RUN else f"runner/{path.name}": path for path in sorted(RUNNER.glob("*.py"))}


def chosen(run: Path, report: Report, asked: str) -> EngineResult:
    """The engine that `asked` means. Raises RecipeError (none, or several), EngineError (it was not built)."""
    named = [e for e in report.engines if e.name == asked] or [e for e in report.engines if e.precision == asked]
    names = [e.name for e in report.engines]
    if not named:
        raise RecipeError(f"{run}: has no engine '{asked}'{nearest(asked, names)}; expected {', '.join(names)}")
    if len(named) > 1:
        raise RecipeError(f"{run}: has {len(named)} {asked} engines; name one: {', '.join(e.name for e in named)}")
    if not named[0].built:
        raise EngineError(f"{run}: {named[0].name} was not built: {named[0].reason}")
    return named[0]


def limits_of(report: Report, result: EngineResult) -> list[LimitResult]:
    """Those on the engine, those on its precision that no engine could be judged by, and those on its like on each
    device: of its name, or else of its precision, since what a device makes of the portable file may have another
    runtime and target.
    """
    found = [limit for limit in report.limits if limit.engine in (result.name, result.precision)]
    for one in report.devices:
        place, names = f"{one.name}{ON}", [engine.name for engine in one.engines if engine.built]
        for limit in report.limits:
            name = limit.engine.removeprefix(place)
            like = name == result.name if result.name in names else name.partition(".")[0] == result.precision
            if limit.engine.startswith(place) and like:
                found.append(limit)
    return found


def _told(limits: Sequence[LimitResult], result: EngineResult) -> list[str]:
    """Each in words; of another engine than the one that is shipped, with its name and device."""
    return [f"{'' if one.engine == result.name else f'{one.engine}: '}{one.limit}: asked {one.asked:g}, "
            + ("judged nowhere yet" if one.found is None else f"found {one.found}") for one in limits]


def _engine(run: Path, name: str) -> tuple[EngineRecord, Path]:
    """Record and file of an engine that was built. Raises WorkDirError (a file of it is missing), DigestMismatch."""
    for file in digests(run):
        if file.startswith(f"engines/{name}/") and not (run / file).is_file():
            proven(run, file)  # which says so
    return verify(run / "engines" / name)


def _with_digest(run: Path, folder: str, digest: str) -> Path:
    """The file in `folder` that has this very digest. Raises WorkDirError, DigestMismatch."""
    for name, sha256 in sorted(digests(run).items()):
        if name.startswith(f"{folder}/") and sha256 == digest:
            return proven(run, name)
    raise WorkDirError(f"{run / folder}: holds no file with SHA-256 {digest[:16]}, which the engine was built from; "
                       "run the build again")


def _measured(report: Report, result: EngineResult) -> dict[str, Any]:
    reference = fp32_reference(result, report.engines)
    environment = report.environment.model_dump(mode="json", exclude={"load_average", "packages"})
    return {"engine": result.model_dump(mode="json"), "fp32": reference and reference.model_dump(mode="json"),
            "limits": [limit.model_dump(mode="json") for limit in limits_of(report, result)],
            "environment": environment}


def _provenance(report: Report, record: EngineRecord, run: Path) -> dict[str, Any]:
    """Digests of what it was made from. A stage's key covers its settings, its inputs, our code and the packages."""
    return {"recipe_sha256": sha256_file(run / "recipe.resolved.yaml"), "engine_sha256": record.sha256,
            "onnx_sha256": record.onnx_sha256, "data": report.data.model_dump(mode="json", exclude={"classes"}),
            "stages": {stage.name: stage.key for stage in report.stages}, "packages": report.environment.packages,
            "python": report.environment.python,
            "shipped_by": {"toolchain": __version__, "code_sha256": code_digest(".")}}


def _golden(run: Path, engine: str, classes: list[str]) -> dict[str, bytes]:
    """Golden images, logits and answers, as raw bytes that any language reads. Raises WorkDirError."""
    index = json.loads(proven(run, "golden/golden.json").read_text(encoding="utf-8"))
    facts = index["engines"].get(engine)
    if facts is None:  # neither the engine nor its file can be run where it was built
        return {}
    images = np.load(proven(run, "golden/images.npy"), allow_pickle=False)
    logits = np.load(proven(run, f"golden/{engine}.npy"), allow_pickle=False)
    content = {"images": len(images), "shape": list(images.shape[1:]), "layout": "NHWC", "channels": "RGB",
               "answers": [classes[index] for index in logits.argmax(axis=1)], **facts}
    return {contents.GOLDEN: _json(content), contents.GOLDEN_IMAGES: np.ascontiguousarray(images, np.uint8).tobytes(),
            contents.GOLDEN_LOGITS: np.ascontiguousarray(logits, "<f4").tobytes()}


def _sbom(name: str, record: EngineRecord, report: Report) -> bytes:
    from toolchain.ship.sbom import sbom

    return sbom(name, record, report)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


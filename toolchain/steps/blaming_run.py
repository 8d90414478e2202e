"""A finished build's quantized engine, found for `toolchain blame`: its files, checked against what the build wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from toolchain.engines import backend
from toolchain.engines.record import EngineRecord, read_record, verify
from toolchain.errors import DigestMismatch, RecipeError, WorkDirError, nearest
from toolchain.files import sha256_file
from toolchain.published import proven, refuse_missing
from toolchain.recipe.quantize import Int4, Int8
from toolchain.report.schema import EngineResult, Report, load_report
from toolchain.steps.contestants import REPORT, meant
from toolchain.steps.mixing import RESULT

QUANTIZED = ("int8", "int8_weight_only", "int4", "fp8", "mixed")


@dataclass(frozen=True)
class Run:
    """One engine of a finished build. quantized, reference: its ONNX file, and the float one of the same tensors.

    ranges: what its scales were made of; None: not needed, or made by a version that did not show them.
    """

    folder: Path
    report: Report
    engine: str
    record: EngineRecord
    quantized: Path
    reference: Path
    ranges: Path | None


def find_run(folder: Path, engine: str | None = None) -> Run:
    """The build in `folder` and the engine to judge: the one named, if only by its beginning; else INT8 on ONNX
    Runtime, else the first.

    Raises RecipeError (no build, no such engine, none that is quantized), DigestMismatch (altered files), EngineError.
    """
    refuse_missing(folder)
    if not (folder / REPORT).is_file():
        raise RecipeError(f"{folder}: holds no {REPORT}, so it is no finished build; finish it with `toolchain build "
                          f"RECIPE --out {folder}`")
    report = load_report(folder / REPORT)
    chosen = _chosen(folder, report, engine)
    record = read_record(folder / "engines" / chosen.name)
    verify(folder / "engines" / chosen.name)
    if chosen.sha256 and record.sha256 != chosen.sha256:
        raise DigestMismatch(f"{folder}: engine {chosen.name} is {record.sha256[:16]}, but {REPORT} is about "
                             f"{chosen.sha256[:16]}; its build did not finish: build again")
    mixed = chosen.precision == "mixed"
    shown = chosen.name if mixed else f"{chosen.precision}.{backend(chosen.runtime).rules(record)}"
    quantized = folder / "onnx" / f"model.{shown}.onnx"
    if not quantized.is_file() or sha256_file(quantized) != record.onnx_sha256:
        what = "is missing" if not quantized.is_file() else "was altered: its SHA-256 is not the one the engine names"
        raise DigestMismatch(f"{quantized}: {what}; delete it if it is there, and build again")
    ranges = folder / "ranges" / f"{chosen.precision}.json"
    if ranges.is_file():
        proven(folder, ranges.relative_to(folder).as_posix())
    return Run(folder, report, chosen.name, record, quantized, _reference(folder, report, chosen.precision),
               ranges if ranges.is_file() else None)


def expected_file(run: Run, out: Path) -> Path | None:
    """Write the ONNX file that the build's ranges give for its engine, whose scales are the right ones, to `out`.

    None where the build does not show what they were made of. Raises OnnxError.
    """
    from toolchain.graph.convert import convert
    from toolchain.ranges import Ranges

    quantize, precision = run.report.recipe.get("quantize") or {}, run.record.precision
    learned = quantize.get("method") == "gpfq" or (quantize.get("learn") or {}).get("method") == "lsq"
    if run.ranges is None and (precision in ("int8", "fp8", "mixed") or learned):
        return None
    chosen = None
    if precision == "mixed":
        path = run.folder / "engines" / run.engine / RESULT
        if not path.is_file():
            return None
        proven(run.folder, path.relative_to(run.folder).as_posix())
        chosen = json.loads(path.read_text(encoding="utf-8"))
    convert(run.reference, out, precision, backend(run.record.runtime).rules(run.record),
            Ranges.load(run.ranges) if run.ranges else None, Int8.model_validate(quantize.get("int8") or {}),
            Int4.model_validate(quantize.get("int4") or {}),
            assignment={row["name"]: row["precision"] for row in chosen["layers"]} if chosen else None,
            joins=chosen is None or chosen["joins"] == "quantized")
    return out


def _chosen(folder: Path, report: Report, asked: str | None) -> EngineResult:
    engines = {engine.name: engine for engine in report.engines}
    able = [name for name, engine in engines.items() if engine.precision in QUANTIZED]
    named = [] if asked is None else meant(asked, engines)
    chosen = [name for name in named if name in able]
    if asked is not None and not named:
        raise RecipeError(f"{folder}: has no engine '{asked}'{nearest(asked, engines)}; expected {', '.join(able)}")
    if asked is not None and not chosen:
        raise RecipeError(f"{folder}: engine {asked} is float, so no layer is to blame; name a quantized one: "
                          f"{', '.join(able) or 'this build has none'}")
    if len(chosen) > 1:
        raise RecipeError(f"{folder}: '{asked}' means {len(chosen)} engines; name one: {' or '.join(chosen)}")
    if not able:
        raise RecipeError(f"{folder}: has no quantized engine, so no layer is to blame; add one to the recipe's "
                          "engines")
    first = next((name for name in able if name.startswith("int8.onnxruntime.")), able[0])
    return engines[chosen[0] if chosen else first]


def _reference(folder: Path, report: Report, precision: str) -> Path:
    path = folder / "onnx" / f"float.{precision}.onnx"
    if path.is_file():
        proven(folder, path.relative_to(folder).as_posix())
        return path
    quantize = report.recipe.get("quantize") or {}
    plain = sorted((folder / "onnx").glob("model.fp32.*.onnx"))
    if plain and quantize.get("method") in ("ptq", "gpfq") and not quantize.get("repair"):
        proven(folder, plain[0].relative_to(folder).as_posix())
        return plain[0]
    raise WorkDirError(f"{path}: is missing, an older version made this build; run its `toolchain build` again, which "
                       "adds it and repeats little")

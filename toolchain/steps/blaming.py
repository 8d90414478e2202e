"""`toolchain blame`: a finished build's quantized engine against its float network, and the edit that would mend it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.engines import backend
from toolchain.engines.record import EngineRecord, read_record, verify
from toolchain.errors import DataError, DigestMismatch, RecipeError, WorkDirError, nearest
from toolchain.files import sha256_file, write_text
from toolchain.recipe.quantize import Int4, Int8
from toolchain.recipe.schema import Engine, Ptq
from toolchain.report.schema import EngineResult, Report, load_report
from toolchain.steps.contestants import REPORT, Contestant, shared_test_set
from toolchain.steps.job import Job
from toolchain.workdir import Stage

if TYPE_CHECKING:
    import numpy as np

    from toolchain.blame.align import Aligned
    from toolchain.blame.file import Blame, Proposal, Verified
    from toolchain.blame.judge import Batches
    from toolchain.data import Dataset

QUANTIZED = ("int8", "int8_weight_only", "int4", "fp8", "mixed")
RESCALING = ("cross_layer_equalization", "smoothquant")  # after them a tensor of the same name has other values
JUDGED = 1000  # images of val on which a proposal is tried, at most
INPUT_VALUES = 2**18  # of one batch: activations of every layer are held at once


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


def publish_reference(job: Job, engine: Engine, start: Stage, ranges: Stage | None) -> None:
    """Show what a quantized engine is judged against: onnx/float.<precision>.onnx, and ranges/<precision>.json.

    The ranges are those that its scales were made of. The float file is the network before rounding touched its
    weights, with the tensors that the quantized file has: the file that the engine starts from, but the clean export
    where GPFQ, AdaRound or bias correction have rounded in that file.
    """
    if job.work.dry or engine.precision not in QUANTIZED:
        return
    clean = next(stage for stage in job.work.stages if stage.name in ("export", "import"))
    chosen = clean if start.name == "gpfq" or _repaired_in_place(start.folder) else start
    job.work.publish(chosen.folder / "model.onnx", f"onnx/float.{engine.precision}.onnx")
    shown = f"ranges/{engine.precision}.json"
    if ranges:
        job.work.publish(ranges.folder / "ranges.json", shown)
    else:
        job.work.withdraw(shown)


def _repaired_in_place(folder: Path) -> bool:
    path = folder / "repair.json"
    if not path.is_file():
        return False
    return not any(one["kept"] and one["method"] in RESCALING for one in json.loads(path.read_text()))


def find_run(folder: Path, engine: str | None = None) -> Run:
    """The build in `folder` and the engine to judge: the one named, else INT8 on ONNX Runtime, else the first.

    Raises RecipeError (no build, no such engine, none that is quantized), DigestMismatch (altered files), EngineError.
    """
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise RecipeError(f"{folder}: no such folder{nearest(folder.name, beside)}; expected the folder of a finished "
                          "build")
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
        _check_published(folder, ranges)
    return Run(folder, report, chosen.name, record, quantized, _reference(folder, report, chosen.precision),
               ranges if ranges.is_file() else None)


def expected_file(run: Run, out: Path) -> Path | None:
    """Write the ONNX file that the build's ranges give for its engine, whose scales are the right ones, to `out`.

    None where the build does not show what they were made of. Raises OnnxError.
    """
    from toolchain.graph.convert import convert
    from toolchain.ranges import Ranges
    from toolchain.steps.mixing import RESULT

    quantize, precision = run.report.recipe.get("quantize") or {}, run.record.precision
    learned = quantize.get("method") == "gpfq" or (quantize.get("learn") or {}).get("method") == "lsq"
    if run.ranges is None and (precision in ("int8", "fp8", "mixed") or learned):
        return None
    chosen = None
    if precision == "mixed":
        path = run.folder / "engines" / run.engine / RESULT
        if not path.is_file():
            return None
        _check_published(run.folder, path)
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
    if asked is not None and asked not in engines:
        raise RecipeError(f"{folder}: has no engine '{asked}'{nearest(asked, engines)}; expected {', '.join(able)}")
    if asked is not None and asked not in able:
        raise RecipeError(f"{folder}: engine {asked} is float, so no layer is to blame; name a quantized one: "
                          f"{', '.join(able) or 'this build has none'}")
    if not able:
        raise RecipeError(f"{folder}: has no quantized engine, so no layer is to blame; add one to the recipe's "
                          "engines")
    first = next((name for name in able if name.startswith("int8.onnxruntime.")), able[0])
    return engines[asked or first]


def _reference(folder: Path, report: Report, precision: str) -> Path:
    path = folder / "onnx" / f"float.{precision}.onnx"
    if path.is_file():
        _check_published(folder, path)
        return path
    quantize = report.recipe.get("quantize") or {}
    plain = sorted((folder / "onnx").glob("model.fp32.*.onnx"))
    if plain and quantize.get("method") in ("ptq", "gpfq") and not quantize.get("repair"):
        _check_published(folder, plain[0])
        return plain[0]
    raise WorkDirError(f"{path}: is missing, an older version made this build; run its `toolchain build` again, which "
                       "adds it and repeats little")


def _check_published(folder: Path, path: Path) -> None:
    try:
        published = json.loads((folder / "published.json").read_text(encoding="utf-8"))
        expected = published[path.relative_to(folder).as_posix()]
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkDirError(f"{folder / 'published.json'}: does not tell the SHA-256 of {path.name}; build "
                           "again") from None
    if (found := sha256_file(path)) != expected:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {expected[:16]} was written; the file was altered: "
                             "delete it and build again")


def blame_run(run: Run, images: int, data_root: Path | None) -> Blame:
    """Rank the layers of one engine on images of val, and try on val what would mend it.

    Leaves blame/blame.json and blame/blame.md in the build's folder. Raises DataError where the data is missing or not
    the build's own, OnnxError, EngineError.
    """
    from toolchain.blame.judge import judge
    from toolchain.blame.propose import proposals
    from toolchain.blame.words import render_markdown, told

    dataset = shared_test_set([Contestant(run.folder.name, run.folder, run.engine, run.report)], None, data_root)
    if not len(dataset.val):
        raise DataError("data.val_fraction: leaves no images in val, and blame needs some; use a larger one")
    seed = int(run.report.recipe.get("seed") or 0)
    batches, count = _val(dataset, images, seed)
    with TemporaryDirectory(prefix="toolchain-blame-") as scratch:
        found, aligned = judge(run.reference, run.quantized, batches, count, run.record.layers,
                               expected_onnx=expected_file(run, Path(scratch) / "expected.onnx"))
    found = found.model_copy(update={"run": run.folder.as_posix(), "engine": run.engine, "file": run.quantized.name,
                                     "reference": run.reference.name})
    quantize = run.report.recipe.get("quantize") or {}
    best = _best(run, proposals(found, run.record.precision, quantize), found, aligned, dataset, seed)
    words = told(best) if best else _nothing(found, quantize)
    found = found.model_copy(update={"proposal": best, "told": words})
    folder = run.folder / "blame"
    folder.mkdir(exist_ok=True)
    write_text(folder / "blame.json", found.to_json())
    write_text(folder / "blame.md", render_markdown(found))
    return found


def _nothing(found: Blame, quantize: dict[str, Any]) -> str:
    if found.agreement_percent == 100:
        return "Every image is answered as the float network answers it: there is nothing to mend."
    if quantize.get("method") == "gpfq":
        return "Codes of gpfq are chosen for all layers together: more bits, or radius: channel, bring it nearer."
    return "No edit that was tried brings the answers nearer to float."


def _val(dataset: Dataset, images: int, seed: int) -> tuple[Batches, int]:
    """A draw from val, in batches, and how many images it holds."""
    import numpy as np

    rows = np.arange(len(dataset.val))
    if images < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:images])
    size = max(4, min(64, INPUT_VALUES // dataset.preprocess.image_size**2))
    chunks = np.split(rows, range(size, len(rows), size))

    def batches() -> Iterable[np.ndarray]:
        return (dataset.preprocess.normalize(pixels) for pixels in dataset.val.image_batches(chunks))

    return batches, len(rows)


def _best(run: Run, tried: Sequence[Proposal], found: Blame, aligned: Sequence[Aligned], dataset: Dataset, seed: int
          ) -> Proposal | None:
    """The first proposal that takes away at least a quarter of the divergence on val; None where none does."""
    if not tried:
        return None
    batches, count = _val(dataset, JUDGED, seed)
    for one in tried:
        result = _verified(run, one, aligned, dataset, batches, count, seed)
        console.log(f"  {'.'.join(one.field)}: {one.value}: KL {result.kl_nats:.3g} -> {result.kl_after_nats:.3g}, val "
                    f"top-1 {result.top1_percent:.2f} -> {result.top1_after_percent:.2f} %")
        if result.kl_after_nats <= 0.75 * result.kl_nats and result.top1_after_percent >= result.top1_percent - 0.1:
            return one.model_copy(update={"verified": result})
    return None


def _verified(run: Run, proposal: Proposal, aligned: Sequence[Aligned], dataset: Dataset, batches: Batches, count: int,
              seed: int) -> Verified:
    """Accuracy and divergence on val before and after: the edit made on the file itself, without training again."""
    from toolchain.blame.align import computes_in_half
    from toolchain.blame.file import Verified
    from toolchain.blame.judge import mean_kl
    from toolchain.blame.networks import Runner, isolated, open_file
    from toolchain.graph.onnx_file import read_onnx
    from toolchain.measure.accuracy import percent

    with TemporaryDirectory(prefix="toolchain-blame-") as scratch:
        before = open_file(run.quantized, half=computes_in_half(run.quantized))
        if proposal.field[-1] == "calibrator":
            after = _recalibrated(run, str(proposal.value), dataset, Path(scratch) / "after.onnx", seed)
        else:
            kept = set(proposal.value)
            after = Runner(isolated(run.reference, [_left(one) if one.name in kept else one for one in aligned]),
                           "the network with these layers float")
        base, was, now = (runner.answers(batches()) for runner in (
            Runner(read_onnx(run.reference), str(run.reference)), before, after))
    labels = dataset.val.labels[_rows(dataset, count, seed)]
    top1 = [percent(logits.argmax(axis=1) == labels) for logits in (base, was, now)]
    return Verified(images=count, float_top1_percent=top1[0], top1_percent=top1[1], top1_after_percent=top1[2],
                    kl_nats=mean_kl(base, was), kl_after_nats=mean_kl(base, now))


def _rows(dataset: Dataset, count: int, seed: int) -> np.ndarray:
    import numpy as np

    total = len(dataset.val)
    return np.arange(total) if count == total else np.sort(np.random.default_rng(seed).permutation(total)[:count])


def _left(one: Aligned) -> Aligned:
    """The layer as float: its weight, and its own reading of the input; what Adds and pools read stays rounded."""
    read = {each.tensor for each in one.reads}
    return replace(one, weight=None, inputs=[], grids={t: g for t, g in one.grids.items() if t in read})


def _recalibrated(run: Run, calibrator: str, dataset: Dataset, out: Path, seed: int) -> Any:
    """The same INT8 file with the ranges of another calibrator, from as many images of train."""
    from toolchain.blame.networks import open_file
    from toolchain.data.calibration import draw_calibration
    from toolchain.graph.convert import convert
    from toolchain.quantize.calibrate import calibrate

    asked = dict(run.report.recipe.get("quantize") or {})
    cfg = Ptq.model_validate({**asked, "calibrator": calibrator})
    drawn, _ = draw_calibration(dataset, min(cfg.calibration.images, len(dataset.train)), seed)
    images = (dataset.preprocess.normalize(drawn[at : at + 1]) for at in range(len(drawn)))
    ranges = calibrate(run.reference, images, cfg.calibrator, len(drawn))
    convert(run.reference, out, "int8", backend(run.record.runtime).rules(run.record), ranges, cfg.int8, cfg.int4)
    return open_file(out)

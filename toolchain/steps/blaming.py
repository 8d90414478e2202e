"""`toolchain blame`: a finished build's quantized engine against its float network, and the edit that would mend it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain.errors import DataError
from toolchain.files import write_text
from toolchain.recipe.schema import Engine
from toolchain.steps.blaming_run import QUANTIZED, Run, expected_file
from toolchain.steps.contestants import Contestant, shared_test_set
from toolchain.steps.job import Job
from toolchain.workdir import Stage

if TYPE_CHECKING:
    from toolchain.blame.file import Blame

RESCALING = ("cross_layer_equalization", "smoothquant")  # after them a tensor of the same name has other values


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


def blame_run(run: Run, images: int, data_root: Path | None) -> Blame:
    """Rank the layers of one engine on images of val, and try on val what would mend it.

    Leaves blame/blame.json and blame/blame.md in the build's folder. Raises DataError where the data is missing or not
    the build's own, OnnxError, EngineError.
    """
    from toolchain.blame.judge import judge
    from toolchain.blame.propose import proposals
    from toolchain.blame.words import render_markdown, told
    from toolchain.steps.blaming_trial import best_edit, val_images

    dataset = shared_test_set([Contestant(run.folder.name, run.folder, run.engine, run.report)], None, data_root)
    if not len(dataset.val):
        raise DataError("data.val_fraction: leaves no images in val, and blame needs some; use a larger one")
    seed = int(run.report.recipe.get("seed") or 0)
    batches, count = val_images(dataset, images, seed)
    quantize = run.report.recipe.get("quantize") or {}
    with TemporaryDirectory(prefix="toolchain-blame-") as scratch:
        found, aligned = judge(run.reference, run.quantized, batches, count, run.record.layers,
                               expected_onnx=expected_file(run, Path(scratch) / "expected.onnx"),
                               by_output=quantize.get("method") == "gpfq")
    found = found.model_copy(update={"run": run.folder.as_posix(), "engine": run.engine, "file": run.quantized.name,
                                     "reference": run.reference.name})
    best = best_edit(run, proposals(found, run.record.precision, quantize), aligned, dataset, seed)
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
    return "No edit that was tried takes away a quarter of the divergence and keeps top-1."

"""What `toolchain blame` tries before it proposes it: an edit of the recipe, made on the file and judged on val."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.engines import backend
from toolchain.recipe.schema import Ptq
from toolchain.steps.blaming_run import Run

if TYPE_CHECKING:
    import numpy as np

    from toolchain.blame.align import Aligned
    from toolchain.blame.file import Proposal, Verified
    from toolchain.blame.judge import Batches
    from toolchain.data import Dataset

JUDGED = 1000  # images of val on which a proposal is tried, at most
INPUT_VALUES = 2**18  # of one batch: activations of every layer are held at once


def val_images(dataset: Dataset, images: int, seed: int) -> tuple[Batches, int]:
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


def best_edit(run: Run, tried: Sequence[Proposal], aligned: Sequence[Aligned], dataset: Dataset, seed: int
              ) -> Proposal | None:
    """The first proposal that takes away at least a quarter of the divergence on val; None where none does."""
    if not tried:
        return None
    batches, count = val_images(dataset, JUDGED, seed)
    for one in tried:
        result = _verified(run, one, aligned, dataset, batches, count, seed)
        console.log(f"  {'.'.join(one.field)}: {one.value}: KL {result.kl_nats:.3g} -> {result.kl_after_nats:.3g}, val "
                    f"top-1 {result.top1_percent:.2f} -> {result.top1_after_percent:.2f} %")
        least = min(result.top1_percent, result.float_top1_percent) - 0.1  # above float is luck, and no loss to give up
        if result.kl_after_nats <= 0.75 * result.kl_nats and result.top1_after_percent >= least:
            return one.model_copy(update={"verified": result})
    return None


def _verified(run: Run, proposal: Proposal, aligned: Sequence[Aligned], dataset: Dataset, batches: Batches, count: int,
              seed: int) -> Verified:
    """Accuracy and divergence on val before and after: the edit made on the file itself, without training again."""
    from toolchain.blame.align import computes_in_half
    from toolchain.blame.file import Verified
    from toolchain.blame.networks import Runner, isolated, open_file
    from toolchain.graph.onnx_file import read_onnx
    from toolchain.measure.accuracy import percent
    from toolchain.measure.fidelity import mean_kl

    with TemporaryDirectory(prefix="toolchain-blame-") as scratch:
        before = open_file(run.quantized, half=computes_in_half(run.quantized))
        if proposal.field[-1] == "calibrator":
            after = _recalibrated(run, str(proposal.value), dataset, Path(scratch) / "after.onnx", seed)
        else:
            kept = {name for name in proposal.value
                    if not isinstance(proposal.value, dict) or proposal.value[name] == "fp32"}
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

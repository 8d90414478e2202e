"""Accuracy repair between calibration and the engines: (onnx, ranges) in, (onnx, ranges) out."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolchain import console
from toolchain.files import write_text
from toolchain.recipe.load import locate
from toolchain.recipe.repair import FOR_ACTIVATIONS, IN_ORDER_OF_COST, AutoRepair
from toolchain.recipe.schema import Ptq, Recipe
from toolchain.steps.job import ONNX_PACKAGES, Job, plain
from toolchain.steps.judging import val_top1
from toolchain.workdir import Stage, sha256_tree

if TYPE_CHECKING:
    import numpy as np

TOP1_DROP = 0.5  # points that `repair: auto` allows where the recipe sets no limit
VERDICT = "verdict.json"  # of `repair: auto`, as report/quantized.py's Judged; it may need to try nothing
RULES = "cpu_x86"  # whose engine file judges: it runs wherever ONNX Runtime does

Precision = Literal["int8", "int4"]


def repaired(job: Job, onnx: Stage, ranges: Stage, precision: Precision = "int8") -> tuple[Stage, Stage]:
    """The float file and the ranges that engines of this precision start from: mended, or those given.

    One stage holds both, and repair.json: [{"method", "seconds", "top1_before", "top1_after", "kept", "did"}], percent
    of val, null where the recipe names the methods and nothing had to be judged.
    """
    quantize = job.recipe.quantize
    if not isinstance(quantize, Ptq) or quantize.repair is None:
        return onnx, ranges
    cfg, wanted, seed = quantize.repair, quantize.calibration, job.recipe.seed
    chosen = locate(wanted.set, job.base, "quantize.calibration.set") if wanted.set else None
    limit, field = allowed_drop(job.recipe, precision)

    def make(folder: Path) -> str:
        bench = Bench(job, onnx.folder / "model.onnx", ranges.folder / "ranges.json", precision, chosen)
        if isinstance(cfg, AutoRepair):
            record, verdict, said = by_need(bench, folder, limit, cfg.images)
            judged = {"precision": precision, "limit": limit, "limit_field": field, "tried": len(record), **verdict}
            write_text(folder / VERDICT, json.dumps(judged, indent=1) + "\n")
        else:
            record = [noted(*one) for one in bench.attempt(cfg, folder)]
            said = ", ".join(one["method"] for one in record)
        write_text(folder / "repair.json", json.dumps(record, indent=1))
        return said

    section = [precision, plain(quantize, "mixed"), limit, field, seed, sha256_tree(chosen) if chosen else None]
    stage = job.work.stage(
        f"repair_{precision}", make, section=section, inputs=[job.data, onnx, ranges],
        rooms=["steps/repairing.py", "steps/judging.py", "quantize", "graph", "data", "ranges.py"],
        packages=["torch", "onnxruntime-gpu", "onnxruntime", *ONNX_PACKAGES])
    return stage, stage


def allowed_drop(recipe: Recipe, precision: Precision) -> tuple[float, str | None]:
    """Points of top-1 that the recipe's limits let this precision lose, and the field that says so; else TOP1_DROP."""
    limits = {f"limits.{precision}.top1_drop": getattr(recipe.limits, precision).top1_drop,
              "limits.top1_drop": recipe.limits.top1_drop}
    return next(((float(limit), field) for field, limit in limits.items() if limit is not None), (TOP1_DROP, None))


class Bench:
    """One file under repair: methods are tried on it and judged by top-1 on val, never on test."""

    def __init__(self, job: Job, onnx: Path, ranges: Path, precision: Precision, chosen: Path | None) -> None:
        from toolchain.data.calibration import calibration_images

        self.job, self.onnx, self.ranges, self.precision = job, onnx, ranges, precision
        self.cfg, self.seed, self.dataset = job.recipe.quantize, job.recipe.seed, job.dataset()
        images, _ = calibration_images(self.dataset, self.cfg.calibration.images, self.seed, chosen)
        # in an order of their own, so that no result depends on the one they came in
        order = sorted(range(len(images)), key=lambda index: hashlib.sha256(images[index].tobytes()).digest())
        self.calibration = images[order]

    def attempt(self, methods: Sequence[Any], folder: Path) -> list[tuple[str, float, str]]:
        """Mend the file by all `methods`: model.onnx and ranges.json in `folder`. (method, seconds, what it did)."""
        from toolchain.quantize.calibrate import calibrate
        from toolchain.quantize.repair import SAME_FUNCTION, repair
        from toolchain.quantize.repair.grid import Target
        from toolchain.ranges import Ranges

        cfg, out, done = self.cfg, folder / "model.onnx", dict[str, tuple[float, str]]()
        target = Target(self.precision, getattr(cfg, self.precision).first_last, cfg.int4.block)
        found, at = Ranges.load(self.ranges), self.onnx
        for first in (True, False):
            some = [one for one in methods if (one.method in SAME_FUNCTION) == first]
            if not some:
                continue
            made = repair(at, out, some, target, self.images, self.seed)
            if made.recalibrate:
                found = calibrate(out, self.images(), cfg.calibrator, len(self.calibration))
            found, at = replace(found, weights={**found.weights, **made.weight_amax}), out
            done |= made.done
        found.save(folder / "ranges.json")
        return [(name, seconds, did) for name, (seconds, did) in done.items()]

    def images(self) -> Iterator[np.ndarray]:
        """The calibration images, one at a time, as the target side feeds them."""
        for index in range(len(self.calibration)):
            yield self.dataset.preprocess.normalize(self.calibration[index : index + 1])

    def quantized(self, folder: Path) -> Path:
        """The engine's file for what lies in `folder` (model.onnx, ranges.json)."""
        import numpy as np

        from toolchain.graph.convert import convert
        from toolchain.ranges import Ranges

        probe = np.load(self.job.data.folder / "probe.npy", allow_pickle=False)
        convert(folder / "model.onnx", folder / "engine.onnx", self.precision, RULES,
                Ranges.load(folder / "ranges.json"), self.cfg.int8, self.cfg.int4, probe=probe)
        return folder / "engine.onnx"

    def top1_percent(self, path: Path, images: int) -> float:
        """Top-1 of an ONNX file on at most so many images of val."""
        return val_top1(path, self.dataset, images, self.seed).percent


def by_need(
    bench: Bench, folder: Path, limit: float, images: int
) -> tuple[list[dict[str, Any]], dict[str, float], str]:
    """Methods in order of cost until top-1 on val is at most `limit` points below the float file's.

    Each is tried on top of those kept, from the float file on, and kept only if top-1 rises. Leaves model.onnx and
    ranges.json of the best in `folder`. Returns the record, the top-1 it ended with, and a line that says so.
    """
    trial, kept, record = folder / "trial", list[Any](), list[dict[str, Any]]()
    shutil.rmtree(trial, ignore_errors=True)  # of an interrupted run
    trial.mkdir()
    _copy(bench.onnx, bench.ranges, folder, trial)
    goal = bench.top1_percent(bench.onnx, images)
    reached = plain_ptq = bench.top1_percent(bench.quantized(trial), images)
    for cfg in IN_ORDER_OF_COST:
        if goal - reached <= limit:
            break
        if bench.precision == "int4" and cfg.method in FOR_ACTIVATIONS:
            continue
        start = time.monotonic()
        did = {name: what for name, _, what in bench.attempt([*kept, cfg], trial)}[cfg.method]
        after = bench.top1_percent(bench.quantized(trial), images)
        record.append(noted(cfg.method, time.monotonic() - start, did, reached, after, after > reached))
        if after > reached:
            kept, reached = [*kept, cfg], after
            _copy(trial / "model.onnx", trial / "ranges.json", folder)
    shutil.rmtree(trial)
    names = ", ".join(cfg.method for cfg in kept) or "nothing"
    verdict = "within" if goal - reached <= limit else "NOT within"
    said = (f"{names} kept{'' if record else ', as nothing had to be tried'}; val top-1 {plain_ptq:.2f} -> "
            f"{reached:.2f} %, {verdict} {limit:g} points of float's {goal:.2f} %")
    return record, {"float_top1": goal, "before": plain_ptq, "after": reached}, said


def noted(method: str, seconds: float, did: str, before: float | None = None, after: float | None = None,
          kept: bool = True) -> dict[str, Any]:
    """One entry of repair.json, which is logged too."""
    gain = "" if before is None or after is None else (
        f"val top-1 {before:.2f} -> {after:.2f} %, {'kept' if kept else 'not kept'}; ")
    console.log(f"  repair: {method}, {seconds:.1f} s: {gain}{did}")
    return {"method": method, "seconds": round(seconds, 3), "top1_before": before, "top1_after": after, "kept": kept,
            "did": did}


def _copy(onnx: Path, ranges: Path, *folders: Path) -> None:
    for folder in folders:
        shutil.copyfile(onnx, folder / "model.onnx")
        shutil.copyfile(ranges, folder / "ranges.json")

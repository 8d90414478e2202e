"""GPFQ in a build: codes from the float network and some images, and what each engine that holds them starts from."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from toolchain.files import write_text
from toolchain.recipe.load import locate
from toolchain.recipe.schema import Gpfq
from toolchain.steps.graphs import calibrated
from toolchain.steps.job import ONNX_PACKAGES, Job, plain
from toolchain.steps.judging import val_top1
from toolchain.workdir import Stage, sha256_tree

JUDGED = 2000  # images of val, at most, that say what the codes cost
STEPS = {"int4": 7, "int8_weight_only": 127, "int8": 127}  # amax / scale, as the graph side divides it


def gpfq_quantized(job: Job, onnx: Stage, precisions: Collection[str]) -> dict[str, tuple[Stage, Stage | None]]:
    """precision -> (float ONNX whose weights lie on the grid, ranges that give the codes back).

    For those asked for that hold the codes; the other engines start from the clean float network as ever.

    The `gpfq` stage leaves model.onnx, gpfq.json (per layer and in all, with the top-1 on val of the float network and
    of the one with these weights) and codes.safetensors, the packed weights.
    """
    cfg = job.recipe.quantize
    assert isinstance(cfg, Gpfq)
    made = _codes(job, onnx, cfg)
    held = [precision for precision in cfg.precisions if precision in precisions]
    return {precision: (made, _ranges(job, made, precision) if precision in STEPS else None) for precision in held}


def _codes(job: Job, onnx: Stage, cfg: Gpfq) -> Stage:
    wanted, seed = cfg.calibration, job.recipe.seed
    chosen = locate(wanted.set, job.base, "quantize.calibration.set") if wanted.set else None

    def make(folder: Path) -> str:
        from toolchain.data.calibration import calibration_images
        from toolchain.quantize.gpfq_network import facts, quantize_network, write_quantized
        from toolchain.quantize.packed import write_packed

        images, _ = calibration_images(job.dataset(), cfg.images, seed, chosen)
        source = onnx.folder / "model.onnx"
        done = quantize_network(source, job.dataset().preprocess.normalize(images), cfg, seed)
        write_quantized(source, done, folder / "model.onnx")
        write_packed(folder / "codes.safetensors", {name: layer.weight for name, layer in done.items()})
        float_val, coded_val = (val_top1(path, job.dataset(), JUDGED, seed) for path in (source, folder / "model.onnx"))
        found = {**facts(done, cfg), "float_val_top1_percent": float_val.percent,
                 "val_top1_percent": coded_val.percent, "val_images": coded_val.images}
        write_text(folder / "gpfq.json", json.dumps(found, indent=1))
        worst = max(found["layers"], key=lambda layer: layer["relative_error"])
        return (f"{len(done)} layers, {found['packed_bytes'] / 1e6:.3f} MB packed, largest error "
                f"{100 * worst['relative_error']:.1f} % in {worst['name']}; val top-1 {float_val.percent:.2f} -> "
                f"{coded_val.percent:.2f} %")

    section = [plain(cfg, "calibrator", "calibration"), seed, sha256_tree(chosen) if chosen else None]
    stage = job.work.stage(
        "gpfq", make, section=section, inputs=[job.data, onnx],
        rooms=["quantize", "graph", "data", "steps/gpfq.py", "steps/judging.py"],
        packages=["numpy", "onnxruntime-gpu", "onnxruntime", "safetensors", *ONNX_PACKAGES])
    for file in ("gpfq.json", "codes.safetensors"):
        job.work.publish(stage.folder / file, f"gpfq/{file}")
    return stage


def _ranges(job: Job, made: Stage, precision: str) -> Stage:
    """ranges.json: each weight's amax is what `precision` makes its scale of; INT8 also needs activations."""
    activations = calibrated("calibrate_gpfq", job, made) if precision == "int8" else None

    def make(folder: Path) -> str:
        from toolchain.quantize.gpfq_network import weight_amax
        from toolchain.quantize.packed import read_packed
        from toolchain.ranges import Ranges

        known = Ranges.load(activations.folder / "ranges.json") if activations else Ranges({})
        amax = weight_amax(read_packed(made.folder / "codes.safetensors"), STEPS[precision])
        method = f"{known.method}, gpfq weights" if known.method else "gpfq weights"
        replace(known, weights=amax, method=method).save(folder / "ranges.json")
        return f"{len(amax)} weights, {len(known.activations)} activations"

    return job.work.stage(f"ranges_gpfq_{precision}", make, section=precision,
                          inputs=[made, *([activations] if activations else [])], rooms=["quantize", "ranges.py"])

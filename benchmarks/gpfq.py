"""GPFQ against rounding to nearest: top-1 at each number of bits, by layer and channel radius.

    python benchmarks/gpfq.py RECIPE [key=value ...]

Trains the recipe's network once (build/gpfq_benchmark/<name>, cached), then quantizes weights alone: activations are
float, so the numbers are those of the weights. "nearest" rounds on the same grid; "nearest max" on the usual one, whose
largest level is the channel's largest |w|. Both runs see the same test images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.graph.compare import run
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.gpfq import Alphabet, scales
from toolchain.quantize.gpfq_network import QuantizedLayer, facts, quantize_network, write_quantized
from toolchain.quantize.packed import PackedWeight
from toolchain.recipe.load import data_roots, load_recipe
from toolchain.recipe.schema import Gpfq

BITS = (2, 3, 4, 5, 6, 8)
IMAGES, BATCH = 128, 250
Batches = list[tuple[np.ndarray, np.ndarray]]  # images (n, 3, S, S) and labels (n,)


def nearest(onnx: Path, cfg: Gpfq) -> dict[str, QuantizedLayer]:
    """Every layer's weight rounded to the nearest level of the grid that `cfg` gives it."""
    found, alphabet = {}, Alphabet.of(cfg)
    for layer in layers(read_onnx(onnx).graph):
        rows = layer.array if layer.axis == 0 else layer.array.T
        rows = rows.reshape(len(rows), -1)
        scale = scales(rows, alphabet, cfg)
        codes = alphabet.codes(rows, scale[:, None])
        shaped = codes.reshape(layer.array.shape) if layer.axis == 0 else codes.T
        found[layer.weight.name or ""] = QuantizedLayer(
            layer.name, PackedWeight(shaped, scale, layer.axis, alphabet.levels), 0.0, 0.0, 0)
    return found


def top1(onnx: Path, done: dict[str, QuantizedLayer], test: Batches) -> float:
    """Top-1 percent of the network with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_quantized(onnx, done, Path(folder) / "model.onnx")
        right = [run(Path(folder) / "model.onnx", images).argmax(axis=1) == labels for images, labels in test]
    return 100 * float(np.concatenate(right).mean())


def prepare(recipe_path: Path, overrides: list[str]) -> tuple[Path, np.ndarray, Batches, Any]:
    """The trained float ONNX, calibration images and test batches of a recipe."""
    from toolchain.data.calibration import calibration_images
    from toolchain.steps.graphs import exported
    from toolchain.steps.job import open_job
    from toolchain.steps.student import float_student, teacher
    from toolchain.workdir import WorkDir

    recipe = load_recipe(recipe_path, overrides)
    work = WorkDir(Path("build/gpfq_benchmark") / recipe.name)
    work.start("")
    job = open_job(recipe, work, recipe_path.parent, data_roots(recipe_path, None), [])
    onnx = exported("export", job, float_student(job, teacher(job))).folder / "model.onnx"
    data = job.dataset()
    images = data.preprocess.normalize(calibration_images(data, IMAGES, recipe.seed)[0])
    rows = np.array_split(np.arange(len(data.test)), -(-len(data.test) // BATCH))
    test = [(data.preprocess.normalize(data.test.images(part)), data.test.labels[part]) for part in rows]
    return onnx, images, test, recipe


def main() -> None:
    """Print one row per number of bits, alphabet and radius."""
    onnx, images, test, recipe = prepare(Path(sys.argv[1]), sys.argv[2:])
    print(f"{recipe.name}: float {top1(onnx, {}, test):.2f} %, {sum(len(labels) for _, labels in test)} test images, "
          f"{IMAGES} calibration images\n\n"
          "| bits | alphabet | radius | GPFQ | nearest | nearest max | packed KB | seconds |\n" + "|---" * 8 + "|")
    for bits in BITS:
        for alphabet, radius in (("deployable", "layer"), ("deployable", "channel"), ("study", "layer")):
            cfg = Gpfq(method="gpfq", bits=bits, alphabet=alphabet, radius=radius)  # type: ignore[arg-type]
            start = time.perf_counter()
            done = quantize_network(onnx, images, cfg, recipe.seed)
            seconds = time.perf_counter() - start
            usual = cfg.model_copy(update={"scalar": 1.0, "radius": "channel"})
            scores = [top1(onnx, found, test) for found in (done, nearest(onnx, cfg), nearest(onnx, usual))]
            print(f"| {bits} | {alphabet} | {radius} | " + " | ".join(f"{score:.2f}" for score in scores)
                  + f" | {facts(done, cfg)['packed_bytes'] / 1e3:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Does blame find the culprit? One layer's scale of a quantized file times four, 50 times, and who is ranked first.

    python benchmarks/blame.py [trials] [network or recipe.yaml ...]

Trains VGG-11, ResNet-18 and MobileNetV2 in small forms on digits (build/blame_benchmark, cached), or builds a recipe
of your own with engines for both precisions on ONNX Runtime, makes their INT8 and INT4 files, and corrupts one random
layer's scale in each trial: in INT8 files that of its weights or of its input, in INT4 files that of its weights.
Blame has what a finished build shows: the float file and the ranges. A scale that two layers read (the input of a
block and of its shortcut) counts for both. "without ranges": with the two files alone, as of a build by an older
version. "by KL alone": without a look at the scales. "false": other layers whose scales were called wrong, in all
trials together.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from toolchain.blame.align import Aligned, align
from toolchain.blame.judge import judge
from toolchain.console import set_quiet
from toolchain.graph.edit import constant
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.recipe.load import data_roots, load_recipe
from toolchain.steps.blaming_run import Run, expected_file, find_run

NETWORKS = {"vgg11_bn": 0.25, "resnet18": 0.25, "mobilenet_v2": 0.5}
RECIPE = """name: {arch}
data: {{source: digits}}
model: {{arch: {arch}, form: cifar, width: {width}}}
train: {{epochs: {epochs}, batch_size: 64}}
quantize: {{method: ptq, calibration: {{images: 128}}}}
engines: [{{runtime: onnxruntime, precision: fp32}}, {{runtime: onnxruntime, precision: int8}},
          {{runtime: onnxruntime, precision: int4}}]
measure: {{rounds: 2, runs_per_round: 2, warmup: 1, throughput_batches: [1]}}
"""
IMAGES, BATCH, FACTOR = 128, 64, 4.0


def corrupt(quantized: Path, out: Path, layers: list[Aligned], random: np.random.Generator) -> tuple[set[str], str]:
    """Write `out` with one scale times FACTOR. Returns the layers that read it and what was hit."""
    model = read_onnx(quantized)
    one = layers[random.integers(len(layers))]
    node = next(node for node in model.graph if node.name == one.quantized_nodes[0])
    of_input = one.inputs[0] in one.grids and random.random() < 0.5
    if of_input:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        scale = producer.inputs[1] if producer is not None else None
        hit = {each.name for each in layers if one.inputs[0] in each.inputs and one.inputs[0] in each.grids}
    else:
        scale = next(value for value in _ancestors(node.inputs[1]) if "_scale" in str(value.name))
        hit = {one.name}
    array = constant(scale)
    assert scale is not None and array is not None
    scale.const_value = ir.Tensor((array * FACTOR).astype(array.dtype), name=scale.name)
    write_onnx(model, out)
    return hit, f"{one.name}: {'input' if of_input else 'weights'}"


def _ancestors(value: ir.Value | None) -> Iterable[ir.Value]:
    if value is None:
        return
    yield value
    producer = value.producer()
    for part in producer.inputs if producer is not None else ():
        yield from _ancestors(part)


@dataclass
class Counts:
    """Over all trials; missed: in words, where the culprit did not stand first."""

    first: int = 0
    without_ranges: int = 0
    by_kl: int = 0
    shared: int = 0
    false: int = 0
    missed: list[str] = field(default_factory=list)


def trials(run: Run, batches: Callable[[], Iterable[np.ndarray]], images: int, count: int) -> Counts:
    """Corrupt one scale of the run's quantized file `count` times, and see who is ranked first."""
    layers = [one for one in align(run.reference, run.quantized) if one.weight is not None]
    found = Counts()
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = expected_file(run, Path(folder) / "expected.onnx")
        for seed in range(count):
            bad = Path(folder) / "bad.onnx"
            hit, what = corrupt(run.quantized, bad, layers, np.random.default_rng(seed))
            judged, _ = judge(run.reference, bad, batches, images, costs=costs, expected_onnx=expected)
            alone, _ = judge(run.reference, bad, batches, images, costs=costs)
            found.first += judged.layers[0].name in hit
            found.without_ranges += alone.layers[0].name in hit
            found.by_kl += max(judged.layers, key=lambda layer: layer.kl_nats).name in hit
            found.shared += len(hit) > 1
            found.false += sum(layer.proven and layer.name not in hit for layer in judged.layers)
            if judged.layers[0].name not in hit:
                found.missed.append(f"{what} (first: {judged.layers[0].name})")
    return found


def prepare(network: str, root: Path) -> tuple[Path, Callable[[], Iterable[np.ndarray]], int]:
    """The build's folder, and images of val. network: of NETWORKS, or a recipe file."""
    from toolchain.commands import run_build
    from toolchain.data import load_dataset

    root.mkdir(parents=True, exist_ok=True)
    recipe = Path(network)
    if network in NETWORKS:
        recipe = root / f"{network}.yaml"
        recipe.write_text(RECIPE.format(arch=network, width=NETWORKS[network],
                                        epochs=8 if network == "mobilenet_v2" else 4))
    folder = root / recipe.stem
    run_build(recipe, out=folder, quiet=True)
    data = load_dataset(load_recipe(recipe).data, data_roots(recipe, None))
    rows = np.random.default_rng(0).permutation(len(data.val))[:IMAGES]
    pixels = data.val.images(rows)
    return folder, lambda: (data.preprocess.normalize(pixels[at : at + BATCH])
                                 for at in range(0, len(pixels), BATCH)), len(pixels)


def main() -> None:
    """Print one row per network and precision."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    rows = []
    for network in sys.argv[2:] or NETWORKS:
        folder, batches, images = prepare(network, Path("build/blame_benchmark"))
        label = f"{network} × {NETWORKS[network]}" if network in NETWORKS else folder.name
        for precision in ("int8", "int4"):
            start = time.perf_counter()
            set_quiet(True)
            found = trials(find_run(folder, f"{precision}.onnxruntime.cpu_x86"), batches, images, count)
            numbers = (found.first, found.without_ranges, found.by_kl)
            rows.append(f"| {label} | {precision} | " + " | ".join(f"{n} of {count}" for n in numbers)
                        + f" | {found.false} | {found.shared} | {(time.perf_counter() - start) / count:.1f} |")
            print(rows[-1], "; ".join(found.missed), file=sys.stderr, flush=True)
    print("| network | file | ranked first | without ranges | by KL alone | false | scale shared by two layers | "
          "s per trial |\n" + "|---" * 8 + "|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()

"""Does the latency table rank networks as their engines do? Predicted against measured p50 at random widths.

    python benchmarks/latency_table.py --out benchmarks/results/latency_resnet18.md
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from toolchain.doctor import machine
from toolchain.engines import backend
from toolchain.export import export_onnx
from toolchain.models import create_model
from toolchain.prune.cost import cost
from toolchain.prune.latency import least_units, ties
from toolchain.recipe.prune import Latency
from toolchain.recipe.schema import Export, OrtEngine, TorchModel
from toolchain.steps.latency_table import measured_table, predictor, quiet, random_widths, whole_networks
from toolchain.steps.timing import Clock
from toolchain.workdir import package_version

SIZE, CLASSES = 32, 10


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; measured latencies have no ties."""
    return values.argsort().argsort().astype(float)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def examine(precision: str, args: argparse.Namespace) -> list[str]:
    """One engine: table, random networks, and how they compare; Markdown lines."""
    cfg = Latency(method="latency", engine=OrtEngine(runtime="onnxruntime", precision=precision))
    how = Clock(cfg.engine, threads=args.threads, warmup=5, rounds=args.rounds, runs=args.runs, seed=0)
    torch.manual_seed(0)
    model = create_model(TorchModel(arch=args.arch, width=args.width), CLASSES, SIZE)

    def export(network: torch.nn.Module, path: Path) -> None:
        export_onnx(network, path, Export(), SIZE, CLASSES)

    with TemporaryDirectory() as folder:
        start = time.monotonic()
        table = measured_table(model, SIZE, cfg, how, Path(folder), export)
        seconds = time.monotonic() - start
        tied, full = ties(model, SIZE)
        predict = predictor(table, tied, full)
        rng = np.random.default_rng(7)  # not those that calibrate, nor those the model was chosen on
        least = {group: least_units(units, cfg.cap, cfg.round_to) for group, units in full.items()}
        drawn = [random_widths(rng, full, least, cfg.round_to) for _ in range(args.networks)]
        samples = whole_networks(model, SIZE, [full, *drawn], how, Path(folder), export)
    measured, best = (np.array([figure(one) for one in samples[1:]]) for figure in (np.median, quiet))
    unpruned = float(np.median(samples[0]))
    predicted = np.array([predict.ms(kept) for kept in drawn])
    error = np.abs(predicted / measured - 1)
    whole = _macs(model, full)
    macs = np.array([_macs(model, kept) for kept in drawn])
    points = sum(len(surface["points"]) for surface in table["surfaces"])
    known = table["calibration"]
    return [
        f"## {precision.upper()}, {args.threads} thread{'s' * (args.threads > 1)}", "",
        f"- Spearman of predicted and measured p50: **{spearman(predicted, measured):.3f}**; p10: "
        f"{spearman(predicted, best):.3f} (of multiply-accumulates and measured p50: {spearman(macs, measured):.3f}; "
        f"p10: {spearman(macs, best):.3f}; of p10 and p50: {spearman(best, measured):.3f})",
        f"- Error of the prediction: median {100 * np.median(error):.1f} %, largest {100 * error.max():.1f} %",
        f"- The table: {points} layer engines, {seconds:.0f} s with the networks that calibrate it; overhead of an "
        f"engine {1e3 * table['overhead_ms']['base']:.1f} us + {1e6 * table['overhead_ms']['per_element']:.3f} ns per "
        f"element; network = {known['scale']:.3f} x sum of layers + {1e6 * known['ms_per_weight']:.3f} ns per weight + "
        f"{1e6 * known['ms_per_element']:.3f} ns per element + {known['base_ms']:.3f} ms",
        f"- Unpruned: {unpruned:.3f} ms measured, {predict.ms(full):.3f} ms predicted", "",
        "| network | predicted ms | measured p50 | p10 | error of p50 | share of MACs |", "| --- " * 6 + "|",
        *(f"| {n} | {p:.3f} | {m:.3f} | {b:.3f} | {100 * (p / m - 1):+.1f} % | {100 * c / whole:.1f} % |"
          for n, (p, m, b, c) in enumerate(zip(predicted, measured, best, macs, strict=True), start=1)), ""]


def _macs(model: torch.nn.Module, kept: dict[str, int]) -> float:
    """Multiply-accumulates of a network without grouped convolutions: each layer's go with inputs times outputs."""
    tied, full = ties(model, SIZE)
    removed = {group: full[group] - kept[group] for group in full}
    return sum(count * np.prod(tied[name].channels(removed)) / (tied[name].inputs * tied[name].outputs)
               for name, count in cost(model, SIZE).layers.items())


def main() -> None:
    """Measure, print, and write --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    facts = machine()
    versions = [f"{p} {package_version(p)}" for p in (*backend("onnxruntime").PACKAGES, "torch", "torch-pruning")
                if package_version(p) != "absent"]
    lines = [
        f"# The latency table against whole engines: {args.arch}, width {args.width:g}, {SIZE} pixels, batch 1", "",
        f"{args.networks} networks, each group of channels at a random multiple of 8 from a tenth of its width to all "
        "of it; random weights. ONNX Runtime on a CPU. Predicted: from engines of single layers and a dozen "
        "whole networks, none of them among these. Measured: p50 and p10 of all samples, networks "
        f"interleaved ({args.rounds} rounds of {args.runs} runs).", "",
        f"{facts['cpu']}, {facts['usable_cores']} cores ({', '.join(facts['instruction_sets'])}); "
        f"{', '.join(versions)}; Python {platform.python_version()}.", "",
        "Made by `python benchmarks/latency_table.py --out benchmarks/results/latency_resnet18.md`.", ""]
    for precision in args.precision:
        lines += examine(precision, args)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

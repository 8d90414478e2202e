"""Which layer is to blame: each one's own share of what quantization does to the answers.

Loss-aware error of a layer: KL(float || float but for this layer) of the logits, in nats, the mean over the images,
with the layer's codes and scales as the file has them. It is what the expected log-loss of the float network's own
answers rises by; labels are not needed, and unlike the SQNR of the layer's output it counts only what reaches the
answer. Errors of one layer do not hide those of another, as they would if one layer of a broken network became float.

A scale that is not the one asked for stands first whatever it costs today: it is a fault, not the price of few bits,
and mending it is free. Where nobody knows what was asked for (a build of an older version), one that does not fit the
values seen does: weights tell by their least-squares factor to the float ones, activations by room beyond their largest
value. That is a hint and no proof, for learned scales clip and other images are larger.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import console
from toolchain.blame.align import Aligned, align, computes_in_half
from toolchain.blame.expected import wrong_scales
from toolchain.blame.file import Blame, LayerBlame
from toolchain.blame.fit import SAMPLE, Noise, relative_error, weight_times
from toolchain.blame.networks import Logits, Runner, isolated, open_file
from toolchain.errors import EngineError
from toolchain.graph.onnx_file import read_onnx
from toolchain.measure.fidelity import mean_kl

ODD_WEIGHTS = 1.5  # times too large, or too small, for the codes
ODD_ROOM, ODD_NOISE = 1.6, 3.0  # of an activation: codes reach so far beyond its values, at so much more noise
MOSTLY = 0.5

Batches = Callable[[], Iterable[NDArray[np.float32]]]


def judge(
    float_onnx: Path, quantized_onnx: Path, batches: Batches, images: int,
    engine_layers: Sequence[Mapping[str, Any]] = (), costs: dict[str, float] | None = None,
    expected_onnx: Path | None = None, by_output: bool = False,
) -> tuple[Blame, list[Aligned]]:
    """Rank the layers of `quantized_onnx` by what each alone costs, the worst first.

    batches: gives the images anew, float32 (n, 3, S, S). images: how many there are. engine_layers: of engine.json.
    costs: filled with each layer's KL by what it depends on, and read, for files that differ in a few layers only.
    expected_onnx: the file that the build's ranges give, whose scales are right; None: not known. by_output: the codes
    were chosen by what layers give (GPFQ), so that their size beside the float weights is no hint.
    Returns the ranking and the layers as aligned. Raises OnnxError when the files are not the same network,
    EngineError for logits that are not finite.
    """
    aligned, half = align(float_onnx, quantized_onnx), computes_in_half(quantized_onnx)
    some = [one for one in aligned if one.quantized]
    tensors = sorted({tensor for one in some for tensor in one.grids} | {one.boundary for one in aligned})
    noise = {(one.name, tensor): Noise(grid) for one in some for tensor, grid in one.grids.items()}
    base, sqnr = _at_boundaries(float_onnx, quantized_onnx, aligned, tensors, noise, batches, images)
    wrong = None if expected_onnx is None else wrong_scales(float_onnx, aligned, expected_onnx)
    whole = _finite(open_file(quantized_onnx, half=half).answers(batches()), str(quantized_onnx))
    found, costs = [], {} if costs is None else costs
    with console.bar("blame", len(some)) as bar:
        for one in some:
            key = _digest(one)
            if key not in costs:
                logits = Runner(isolated(float_onnx, [one]), f"layer {one.name}").answers(batches())
                costs[key] = mean_kl(base, _finite(logits, f"layer {one.name}, quantized alone"))
            cost = costs[key]
            found.append(_described(one, cost, sqnr.get(one.boundary), noise, wrong, by_output))
            bar.advance(1, layer=one.name, kl=cost)
    _match_engine(found, aligned, engine_layers)
    ranked = sorted(found, key=lambda layer: (layer.fault is None, -layer.kl_nats))
    return Blame(images=images, kl_nats=mean_kl(base, whole), agreement_percent=agreement(base, whole),
                 float_layers=[one.name for one in aligned if not one.quantized], layers=ranked), aligned


def _digest(one: Aligned) -> str:
    """What the cost of one layer depends on, beside the float file and the images."""
    digest = hashlib.sha256(repr((one.name, one.reads)).encode())
    if one.weight is not None:
        digest.update(one.weight.tobytes())
    for tensor, grid in sorted(one.grids.items()):
        digest.update(repr((tensor, grid.scale, grid.zero_point.tolist(), int(grid.kind))).encode())
    return digest.hexdigest()


def agreement(base: Logits, logits: Logits) -> float:
    """Share of images answered alike, percent."""
    return 100 * float((base.argmax(axis=1) == logits.argmax(axis=1)).mean())


def _finite(logits: Logits, what: str) -> Logits:
    if not np.isfinite(logits).all():
        raise EngineError(f"{what}: the logits are NaN or infinite; expected finite ones; build the engine again")
    return logits


def _at_boundaries(
    float_onnx: Path, quantized_onnx: Path, aligned: Sequence[Aligned], tensors: Sequence[str],
    noise: Mapping[tuple[str, str], Noise], batches: Batches, images: int,
) -> tuple[Logits, dict[str, float]]:
    """The float logits, and the SQNR in dB of each boundary between the two files as they are, errors accumulated.

    Both run side by side, a batch at a time, so that memory holds one batch's tensors. Fills `noise`.
    """
    float_run = Runner(read_onnx(float_onnx), str(float_onnx), tensors)
    known = {value.name for node in read_onnx(quantized_onnx).graph for value in node.outputs}
    edges = list(dict.fromkeys(one.boundary for one in aligned if one.boundary in known))
    quantized_run = open_file(quantized_onnx, edges, half=True)  # node by node: a fused kernel has no inner tensors
    logits, signal, error = [], dict.fromkeys(edges, 0.0), dict.fromkeys(edges, 0.0)
    both = zip(float_run.each(batches()), quantized_run.each(batches()), strict=True)
    for given, found in both:
        count = len(given[float_run.logits])
        logits.append(given[float_run.logits])
        for (_, tensor), one in noise.items():
            if tensor in given:
                one.add(given[tensor], max(1, SAMPLE * count // images))
        for edge in edges:
            wanted = given[edge].astype(np.float64)
            signal[edge] += float((wanted**2).sum())
            error[edge] += float(((found[edge].astype(np.float64) - wanted) ** 2).sum())
    base = _finite(np.concatenate(logits).astype(np.float32, copy=False), str(float_onnx))
    return base, {edge: decibels(signal[edge], error[edge]) for edge in edges}


def decibels(signal: float, error: float) -> float:
    """Signal over error, at most 200."""
    return 200.0 if error <= signal * 1e-20 else 10 * float(np.log10(max(signal, 1e-30) / error))


def _described(one: Aligned, cost: float, sqnr: float | None, noise: Mapping[tuple[str, str], Noise],
               wrong: Mapping[str, str] | None, by_output: bool) -> LayerBlame:
    mine = {tensor: noise[one.name, tensor] for tensor in one.grids if noise[one.name, tensor].signal > 0}
    of_weights = relative_error(one)
    of_inputs = {tensor: each.noise / each.signal for tensor, each in mine.items()}
    worst = max(of_inputs, key=lambda tensor: of_inputs[tensor], default=None)
    rounding = of_inputs[worst] if worst else 0.0
    clipped = mine[worst].clipped / mine[worst].noise if worst and mine[worst].noise > 0 else 0.0
    if of_weights >= rounding:
        cause = "weights rounded"
    else:
        cause = f"{worst} {'clipped' if clipped > MOSTLY else 'rounded'}"
    times = weight_times(one)
    return LayerBlame(
        name=one.name, op=one.op, precision=one.precision, macs=one.macs, kl_nats=cost, cause=cause,
        fault=_misfit(1.0 if by_output else times, mine) if wrong is None else wrong.get(one.name),
        proven=one.name in (wrong or {}),
        weight_sqnr_db=decibels(1.0, of_weights) if one.weight is not None else None,
        input_sqnr_db=decibels(1.0, rounding) if worst else None, clipped_share=clipped if worst else None,
        boundary=one.boundary, boundary_sqnr_db=sqnr, weight_times=min(times, 1e9), nodes=one.nodes,
        quantized_nodes=one.quantized_nodes)


def _misfit(times: float, noise: Mapping[str, Noise]) -> str | None:
    """Which scale does not fit the values seen, in words; None where all do."""
    if not 1 / ODD_WEIGHTS < times < ODD_WEIGHTS:
        return f"the scale of its weights does not fit them: they come back {times:.3g} times as large"
    for tensor, each in noise.items():
        if each.headroom > ODD_ROOM and each.misfit > ODD_NOISE:
            return (f"the scale of '{tensor}' does not fit the images seen: it reaches {each.headroom:.1f} times as "
                    f"far as their values, at {each.misfit:.0f} times the noise of the best scale")
    return None


def _match_engine(found: Sequence[LayerBlame], aligned: Sequence[Aligned], engine: Sequence[Mapping[str, Any]]) -> None:
    """Engine layers by name: a runtime's fused kernel is called after a node or a tensor of it, the longest counts."""
    owners: dict[str, str] = {}
    for one in aligned:
        owners.update(dict.fromkeys([one.boundary, *one.quantized_nodes], one.name))
    names = sorted(owners, key=len, reverse=True)
    layers = {layer.name: layer for layer in found}
    for entry in engine:
        text = str(entry.get("name") or "")
        hit = next((name for name in names if name and re.search(
            rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", text)), None)
        if hit and owners[hit] in layers:
            layers[owners[hit]].engine_layers.append(f"{text} ({entry.get('op')})")

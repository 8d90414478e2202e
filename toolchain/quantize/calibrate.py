"""Calibration: run images through the clean float network in ONNX Runtime and keep a histogram per tensor.

Histograms are blind to order, so the ranges depend on the set of images alone; memory holds the activations of a few
images, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import console
from toolchain.errors import OnnxError
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.amax import choose_amax
from toolchain.quantize.observe import observe
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.quantize import Calibrator


def calibrate(onnx_path: Path, images: Iterable[np.ndarray], cfg: Calibrator, total: int | None = None) -> Ranges:
    """Ranges of every tensor that a target may quantize.

    images: float32 arrays (n, 3, S, S) as the target side feeds them; total: how many images, for the progress bar.
    Raises OnnxError naming the layer whose values are NaN or infinite, DataError for images of the wrong shape or none.
    """
    with console.bar("calibrate", total) as progress:
        seen = observe(onnx_path, images, cfg.method != "max", progress.advance)
    # The network's input is bounded by its preprocessing, and a plain background makes a spike that the entropy search
    # takes for the whole image: nothing of it is clipped, whatever the calibrator.
    found = {name: ActivationRange(h.min, h.max, h.amax if name == seen.input else choose_amax(h, cfg))
             for name, h in seen.histograms.items()}
    return Ranges(found, {}, f"{cfg.method} on {seen.images} images")


def overlay(ranges: Ranges, learned: Mapping[str, Mapping[str, Any]], onnx_path: Path) -> Ranges:
    """QAT's learned ranges laid over calibrated ones.

    learned: weight parameter name -> {"input_amax": float, "weight_amax": [per output channel]}, or for INT4 weights
    {"block_amax": [[per block] per output channel]}; the parameter is the initializer of that name, and its layer's
    input is the tensor, whose range is marked as one that clips. Layers that share an input keep the largest amax.
    Raises OnnxError when a learned layer is not in the network, or its channels do not match.
    """
    by_weight = {layer.weight.name or "": layer for layer in layers(read_onnx(onnx_path).graph)}
    unknown = sorted(set(learned) - set(by_weight))
    if unknown:
        raise OnnxError(f"{onnx_path}: learned ranges for {', '.join(unknown[:3])}, but its layers are "
                        f"{', '.join(list(by_weight)[:3])}, …; the ranges belong to another network")
    weights, blocks, inputs = dict(ranges.weights), dict(ranges.blocks), dict[str, float]()
    for name, found in learned.items():
        layer, amax = by_weight[name], found.get("block_amax") or found["weight_amax"]
        channels = layer.array.shape[layer.axis]
        if len(amax) != channels:
            raise OnnxError(f"{onnx_path}: {name} has {channels} output channels, but {len(amax)} learned ranges")
        if "block_amax" in found:
            blocks[name] = amax
            continue
        tensor = layer.input.name or ""
        weights[name] = [float(a) for a in amax]
        inputs[tensor] = max(inputs.get(tensor, 0.0), float(found["input_amax"]))
    activations = dict(ranges.activations)
    for tensor, input_amax in inputs.items():
        seen = activations.get(tensor, ActivationRange(-input_amax, input_amax, input_amax))
        activations[tensor] = ActivationRange(seen.min, seen.max, input_amax, clips=True)
    method = f"learned for {len(learned)} layers" + f", {ranges.method} elsewhere" * bool(ranges.method)
    return Ranges(activations, weights, method, blocks)


def input_amax(ranges: Ranges, onnx_path: Path) -> dict[str, float]:
    """Calibrated amax of each layer's input, by the name of the layer's weight: where QAT starts from."""
    return {layer.weight.name or "": ranges.activations[layer.input.name or ""].amax
            for layer in layers(read_onnx(onnx_path).graph) if layer.input.name in ranges.activations}


def read_by(onnx_path: Path) -> dict[str, str]:
    """Name of the tensor that each layer reads, by the name of the layer's weight."""
    return {layer.weight.name or "": layer.input.name or "" for layer in layers(read_onnx(onnx_path).graph)}

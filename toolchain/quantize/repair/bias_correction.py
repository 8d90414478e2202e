"""Bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2): rounding shifts the mean of an output.

b_o -= E[((Wq - W) x)_o], the mean over calibration images and positions, with x of the float network. A layer whose
rounding was learned is left alone: that weighed the mean too, for the inputs it will really get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from toolchain import console
from toolchain.graph.edit import add_initializer
from toolchain.graph.layers import Layer, layers
from toolchain.quantize.repair.network import Network, Tap, bias, copy_of, each_image, store_bias

if TYPE_CHECKING:
    from toolchain.recipe.repair import BiasCorrection

OUTPUT = "{}/rounding_error"


def repair(network: Network, cfg: BiasCorrection) -> str:
    """Correct the bias of every quantized layer of `network`, in place. Returns what was done."""
    model, errors = copy_of(network.model), dict[str, np.ndarray]()
    for layer in network.quantized():
        error = network.grid(layer).nearest(layer.array) - layer.array
        if error.any() and bias(layer) is not None and layer.weight.name not in network.learned:
            errors[_key(layer)] = error
    if not errors:
        return "nothing to correct: no quantized layer that is rounded to nearest has an error and a bias"
    for twin in layers(model.graph):
        if _key(twin) in errors:
            _add_error_output(model.graph, twin, errors[_key(twin)])
    shifts = _mean_outputs(network, model, {layer.node.outputs[0].name or "": layer for layer in network.quantized()
                                            if _key(layer) in errors})
    for layer in network.quantized():
        found = bias(layer)
        if _key(layer) in shifts and found is not None:
            store_bias(network.model.graph, layer, found - shifts[_key(layer)])
    largest = max(shifts, key=lambda name: float(np.abs(shifts[name]).max()))
    return (f"{len(shifts)} layers; largest shift {np.abs(shifts[largest]).max():.2g}, "
            f"of tensor '{largest}'")


def _key(layer: Layer) -> str:
    """The layer's output: two layers may share a weight, never a tensor."""
    return layer.node.outputs[0].name or ""


def _add_error_output(graph: ir.Graph, layer: Layer, error: np.ndarray) -> None:
    """A twin of the layer with the rounding error for its weight and without bias."""
    stored = add_initializer(graph, OUTPUT.format(f"{_key(layer)}_weight"), error)
    twin = ir.Node("", layer.op, [layer.input, stored], attributes=list(layer.node.attributes.values()))
    twin.outputs[0].name = OUTPUT.format(_key(layer))
    graph.append(twin)


def _mean_outputs(network: Network, model: ir.Model, wanted: dict[str, Layer]) -> dict[str, np.ndarray]:
    """Layer's output -> (output channels,) mean over images and positions of what its twin gives.

    Each image's mean is summed in order of size, so that the order of the images changes no bit.
    """
    tap = Tap(network, model, [OUTPUT.format(name) for name in wanted])
    means: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    with console.bar("bias correction", None) as progress:
        for image in each_image(network.images()):
            values = tap.run(image)
            for name, layer in wanted.items():
                channel_first = np.moveaxis(values[OUTPUT.format(name)], 1 if layer.op == "Conv" else -1, 0)
                means[name].append(channel_first.reshape(len(channel_first), -1).mean(axis=1, dtype=np.float64))
            progress.advance()
    return {name: np.sort(found, axis=0).mean(axis=0) for name, found in means.items()}

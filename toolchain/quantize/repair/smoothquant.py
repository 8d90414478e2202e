"""SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): outliers move from activations to weights.

s_j = max|X_j|^a / max|W_j|^(1 - a) for input channel j (eq. 4); X / s is folded into the layer that makes X, W * s
into the layers that read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolchain import console
from toolchain.quantize.repair.network import Network, Tap, copy_of, each_image
from toolchain.quantize.repair.pairs import Pair, find_pairs, in_words, input_amax, open_weights, rescale, write_back

if TYPE_CHECKING:
    from toolchain.recipe.repair import SmoothQuant

LARGEST = 1024.0  # a channel that is nearly dead has nothing to smooth


def repair(network: Network, cfg: SmoothQuant) -> str:
    """Smooth every pair of `network`, in place; it computes the same. Returns what was done."""
    pairs, refused = find_pairs(network.model.graph)
    if not pairs:
        return in_words(pairs, refused)
    seen = _largest_inputs(network, pairs)
    weights, biases = open_weights(pairs)
    scales = []
    for pair, largest in zip(pairs, seen, strict=True):
        scales.append(smoothing_scale(largest, input_amax(pair, weights), cfg.alpha))
        rescale(pair, scales[-1], weights, biases)
    write_back(network.model.graph, pairs, weights, biases)
    network.activations_changed = True
    factors = np.concatenate(scales)
    return f"{in_words(pairs, refused)}; factors {factors.min():.2g} to {factors.max():.2g}"


def smoothing_scale(inputs: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """max|X_j|^alpha / max|W_j|^(1 - alpha) of (channels,) maxima; 1 where either is 0."""
    live = (inputs > 0) & (weights > 0)
    scale = np.where(live, inputs, 1.0) ** alpha / np.where(live, weights, 1.0) ** (1 - alpha)
    return np.where(live, np.clip(scale, 1 / LARGEST, LARGEST), 1.0)


def _largest_inputs(network: Network, pairs: list[Pair]) -> list[np.ndarray]:
    """For each pair (channels,) the largest |x| that its seconds read of each channel, over all images."""
    tap = Tap(network, copy_of(network.model), [second.input.name or "" for pair in pairs for second in pair.seconds])
    largest = [np.zeros(pair.channels) for pair in pairs]
    with console.bar("smoothquant", None) as progress:
        for image in each_image(network.images()):
            values = tap.run(image)
            for index, pair in enumerate(pairs):
                for second in pair.seconds:
                    value = np.abs(values[second.input.name or ""])
                    channel_first = np.moveaxis(value, 1 if second.op == "Conv" else -1, 0)
                    np.maximum(largest[index], channel_first.reshape(pair.channels, -1).max(axis=1), out=largest[index])
            progress.advance()
    return largest

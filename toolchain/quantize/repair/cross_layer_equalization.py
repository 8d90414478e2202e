"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721): neighbours share what one scale must cover.

For layers W1 -> ReLU -> W2, s_c = sqrt(r1_c / r2_c) with r1 the largest |w| that makes channel c and r2 the largest
that reads it; W1 and its bias are divided by s, W2 is multiplied (eq. 11). Both then have range sqrt(r1 r2). A layer
stands in two pairs, so this is repeated until nothing moves. Needs no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolchain.quantize.repair.network import Network
from toolchain.quantize.repair.pairs import (
    by_output,
    find_pairs,
    in_words,
    input_amax,
    open_weights,
    rescale,
    write_back,
)

if TYPE_CHECKING:
    from toolchain.recipe.repair import CrossLayerEqualization

STEADY = 1e-4  # a sweep that moves every scale by less than this share has converged
LARGEST = 1024.0  # a channel whose weights are nearly zero would blow up its bias, and with it the tensor's range


def repair(network: Network, cfg: CrossLayerEqualization) -> str:
    """Equalize every pair of `network`, in place; it computes the same. Returns what was done."""
    pairs, refused = find_pairs(network.model.graph)
    if not pairs:
        return in_words(pairs, refused)
    weights, biases = open_weights(pairs)
    total = [np.ones(pair.channels) for pair in pairs]
    sweeps, moved = 0, np.inf
    while sweeps < cfg.sweeps and moved > STEADY:
        moved = 0.0
        for index, pair in enumerate(pairs):
            made = np.abs(by_output(pair.first, weights[pair.first.weight.name or ""])).max(axis=1)
            wanted = total[index] * equalizing_scale(made, input_amax(pair, weights))
            scale = np.clip(wanted, 1 / LARGEST, LARGEST) / total[index]
            rescale(pair, scale, weights, biases)
            total[index] *= scale
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        sweeps += 1
    write_back(network.model.graph, pairs, weights, biases)
    network.activations_changed = True
    factors = np.concatenate(total)
    return f"{in_words(pairs, refused)}; factors {factors.min():.2g} to {factors.max():.2g} in {sweeps} sweeps"


def equalizing_scale(made: np.ndarray, read: np.ndarray) -> np.ndarray:
    """sqrt(made / read) for the largest |w| (channels,) that make and that read each channel; 1 where one is 0."""
    live = (made > 0) & (read > 0)
    return np.sqrt(np.where(live, made, 1.0) / np.where(live, read, 1.0))

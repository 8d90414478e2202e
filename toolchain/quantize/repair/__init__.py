"""Accuracy repair for post-training quantization: ONNX in, ONNX out, so a user's own file is repaired too.

Two of the methods rewrite the float network into one that computes the same and quantizes better; the other two
choose codes and biases that undo what rounding does to each layer's output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.graph.clean import clean
from toolchain.graph.onnx_file import write_onnx
from toolchain.quantize.repair.grid import Target
from toolchain.quantize.repair.network import Images, Network, read_network
from toolchain.recipe.repair import FOR_ACTIVATIONS

# in order of cost; each module has `repair(network, cfg) -> what it did, in words`
REPAIRS = {
    "cross_layer_equalization": "toolchain.quantize.repair.cross_layer_equalization",
    "bias_correction": "toolchain.quantize.repair.bias_correction",
    "smoothquant": "toolchain.quantize.repair.smoothquant",
    "adaround": "toolchain.quantize.repair.adaround",
}
# in the order in which they build on each other: the same function first, then the codes, then what the codes leave
APPLIED = ("cross_layer_equalization", "smoothquant", "adaround", "bias_correction")
SAME_FUNCTION = APPLIED[:2]  # they change activations, not logits: ranges are calibrated after them, before the rest


@dataclass(frozen=True)
class Repaired:
    """What came of one file.

    weight_amax: weight name -> amax per output channel, the grid on which AdaRound put it. recalibrate: activations
    are other than before, so their ranges must be found again. done: method -> (seconds, what it did).
    """

    weight_amax: dict[str, list[float]]
    recalibrate: bool
    done: dict[str, tuple[float, str]]


def repair(
    onnx_path: Path, out_path: Path, methods: Sequence[Any], target: Target, images: Callable[[], Images], seed: int,
) -> Repaired:
    """Apply `methods` (sections of recipe/repair.py, in whatever order) to a clean float file and write `out_path`.

    images: gives the calibration images anew, float32 (n, 3, S, S) as the target side feeds them; how they are batched
    and ordered changes nothing but which of them AdaRound looks at first. Tensors and weights keep their names.
    Raises OnnxError, with nothing written, for a file that cannot be read or run.
    """
    network = read_network(onnx_path, target, images, seed)
    done: dict[str, tuple[float, str]] = {}
    for cfg in sorted(methods, key=lambda cfg: APPLIED.index(cfg.method)):
        start = time.monotonic()
        said = _apply(network, cfg)
        done[cfg.method] = (round(time.monotonic() - start, 3), said)
    clean(network.model)
    write_onnx(network.model, out_path)
    amax = {name: np.asarray(found, np.float64).tolist() for name, found in network.weight_amax.items()}
    return Repaired(amax, network.activations_changed, done)


def _apply(network: Network, cfg: Any) -> str:
    if cfg.method in FOR_ACTIVATIONS and network.target.precision == "int4":
        return "skipped: activations stay float beside INT4 weights"
    return str(import_module(REPAIRS[cfg.method]).repair(network, cfg))

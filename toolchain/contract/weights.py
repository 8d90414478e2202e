"""Do the stored weights still say what the float ones said? Decoded layer by layer, and compared.

This finds codes with another channel's scale, a swapped nibble or a damaged tensor, which no runtime complains of, and
names the layer. Rounding alone moves a layer's weights by far less than the limits: relative to their L2 norm, INT8
per channel by 1-2 %, FP8 by 3 %, INT4 in blocks by 8-15 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolchain.contract.engine_file import FileLayer, matched, read_file
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.stored import decoded

# largest |decoded - float| / |float| (L2) that rounding explains
LARGEST = {"fp32": 1e-6, "fp16": 0.01, "bf16": 0.02, "fp8": 0.15, "int8": 0.15, "int8_weight_only": 0.15, "int4": 0.6}


def wrong_weights(source: Path, path: Path, asked: Mapping[str, str], held: Mapping[str, FileLayer]) -> dict[str, str]:
    """Layer name -> what is wrong with the weights that `path` holds for it, for the layers where something is.

    source: the float file. asked: layer name -> precision. Raises OnnxError when a file cannot be read.
    """
    floats = matched(list(asked), read_file(source).layers)
    both = [name for name in asked if name in floats and name in held]
    before = decoded(read_onnx(source), [floats[name].weight for name in both])
    after = decoded(read_onnx(path), [held[name].weight for name in both])
    wrong = {}
    for name in both:
        one = np.moveaxis(before[floats[name].weight], floats[name].channel_axis, 0)
        other = np.moveaxis(after[held[name].weight], held[name].channel_axis, 0)
        limit = LARGEST.get(asked[name], LARGEST["int4"])
        if one.shape != other.shape:
            wrong[name] = f"its weight is {other.shape}, the float one {one.shape}"
        elif (gap := _relative(one, other)) > limit:
            wrong[name] = (f"its stored weights differ from the float ones by {gap:.0%} (rounding explains at most "
                           f"{limit:.0%}): codes and scales do not belong together")
    return wrong


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    norm = float(np.linalg.norm(one))
    return float(np.linalg.norm(one - other)) / norm if norm else float(np.linalg.norm(other))

"""Is a scale the one that was asked for? The file beside the file that the same ranges give anew, scale by scale.

Whether a scale fits some images says little: a learned scale clips on purpose, and that of a calibrator that keeps the
largest value reaches beyond the values of other images. What the build's ranges give by the target's rules is the only
thing that a scale can be held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toolchain.blame.align import Aligned, align

# More than this apart, up or down: rounding methods that choose codes by output error may move the largest weight of a
# block by a step of seven, and a scale stored in half by a thousandth.
WRONG = 1.5


def wrong_scales(float_onnx: Path, aligned: list[Aligned], expected_onnx: Path) -> dict[str, str]:
    """Layer -> which of its scales is not the one of `expected_onnx`, in words; layers whose scales are have no entry.

    Raises OnnxError when the files are not of one network.
    """
    asked = {one.name: one for one in align(float_onnx, expected_onnx)}
    return {one.name: words for one in aligned if (words := _wrong(one, asked.get(one.name)))}


def _wrong(one: Aligned, asked: Aligned | None) -> str | None:
    if asked is None:
        return None
    found: Mapping[str, float] = {
        **({"its weights": _times(one.scales, asked.scales)} if one.scales is not None else {}),
        **{f"'{tensor}'": grid.scale / asked.grids[tensor].scale for tensor, grid in one.grids.items()
           if tensor in asked.grids}}
    worst = max(found, key=lambda what: _apart(found[what]), default=None)
    if worst is None or _apart(found[worst]) < WRONG:
        return None
    return f"the scale of {worst} is {found[worst]:.3g} times what the build's ranges ask for"


def _times(scales: np.ndarray, asked: np.ndarray | None) -> float:
    """The scale farthest from the one asked for, as a multiple of it; 1 where they are not laid out alike."""
    if asked is None or scales.shape != asked.shape:
        return 1.0
    times = scales.astype(np.float64) / np.maximum(asked.astype(np.float64), 1e-300)
    return float(times.reshape(-1)[int(np.argmax([_apart(each) for each in times.reshape(-1)]))])


def _apart(times: float) -> float:
    """How far from 1, whichever way; not a number or not positive is as far as can be."""
    return max(times, 1 / times) if times > 0 and np.isfinite(times) else float("inf")

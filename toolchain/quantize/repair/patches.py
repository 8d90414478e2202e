"""What a layer reads, as rows: for each sampled output position, the inputs that its weights are multiplied with."""

from __future__ import annotations

import numpy as np

from toolchain.graph.layers import Layer
from toolchain.quantize.repair.pairs import groups_of


def as_rows(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """A weight of this layer as (groups, outputs of each group, inputs of each output)."""
    groups = groups_of(layer)
    rows = np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1)
    return rows.reshape(groups, len(rows) // groups, -1)


def from_rows(layer: Layer, rows: np.ndarray) -> np.ndarray:
    """The inverse of `as_rows`: the layer's weight in its own shape."""
    shape = layer.array.shape
    outputs_first = (shape[layer.axis], *(size for axis, size in enumerate(shape) if axis != layer.axis))
    return np.moveaxis(rows.reshape(outputs_first), 0, layer.axis)


def unreadable(layer: Layer) -> str | None:
    """Why patches of this layer's input cannot be cut; None when they can."""
    attribute = layer.node.attributes.get("auto_pad")
    if layer.op == "Conv" and layer.array.ndim != 4:
        return "not a convolution of images"
    if attribute is not None and attribute.as_string() not in ("NOTSET", "VALID"):
        return f"auto_pad {attribute.as_string()}"
    return None


def positions(layer: Layer, value: np.ndarray) -> int:
    """How many output positions one input (1, …) has."""
    return int(np.prod(_outputs(layer, value.shape))) if layer.op == "Conv" else value.size // value.shape[-1]


def patches(layer: Layer, value: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The rows at the output positions `chosen` (p,), counted row by row: value (1, …) -> float32 (groups, p, inputs).

    Their product with `as_rows` of the weight, over the inputs, is the layer's output there, without its bias.
    """
    if layer.op != "Conv":
        return value.reshape(1, -1, value.shape[-1])[:, chosen]
    _, channels, high, wide = layer.array.shape
    top, left, bottom, right = _pads(layer)
    (step_y, step_x), (gap_y, gap_x) = _pair(layer, "strides"), _pair(layer, "dilations")
    padded = np.pad(value[0], ((0, 0), (top, bottom), (left, right)))
    y, x = np.divmod(chosen, _outputs(layer, value.shape)[1])
    rows = (y * step_y)[:, None, None] + (np.arange(high) * gap_y)[:, None]
    columns = (x * step_x)[:, None, None] + (np.arange(wide) * gap_x)[None, :]
    cut = padded[:, rows, columns]  # (input channels, p, high, wide)
    groups = len(cut) // channels
    return cut.reshape(groups, channels, len(chosen), -1).transpose(0, 2, 1, 3).reshape(groups, len(chosen), -1)


def _outputs(layer: Layer, shape: tuple[int, ...]) -> tuple[int, int]:
    top, left, bottom, right = _pads(layer)
    steps, gaps, kernel = _pair(layer, "strides"), _pair(layer, "dilations"), layer.array.shape[2:]
    sizes = (shape[2] + top + bottom, shape[3] + left + right)
    high, wide = ((size - gap * (k - 1) - 1) // step + 1
                  for size, k, step, gap in zip(sizes, kernel, steps, gaps, strict=True))
    return high, wide


def _pads(layer: Layer) -> list[int]:
    """top, left, bottom, right."""
    attribute = layer.node.attributes.get("pads")
    return list(attribute.as_ints()) if attribute is not None else [0, 0, 0, 0]


def _pair(layer: Layer, name: str) -> list[int]:
    attribute = layer.node.attributes.get(name)
    return list(attribute.as_ints()) if attribute is not None else [1, 1]

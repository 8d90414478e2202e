"""GPFQ over a whole network: layer after layer as they run, each seeing what the ones before left of its inputs.

A convolution is a layer whose rows are its patches, taken with its own stride, padding and dilation; its groups are
layers side by side. Images go through the float and the quantized network one at a time, in ONNX Runtime: one session
whose weights are inputs serves both, so equal weights give equal bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from toolchain import console
from toolchain.errors import DataError, OnnxError
from toolchain.graph.layers import Layer, layers
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.quantize.gpfq import Alphabet, Inputs, gpfq, scales
from toolchain.quantize.packed import PackedWeight, smallest_coding
from toolchain.recipe.schema import Gpfq

THREADS = 2


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer's codes and how well they do; errors are |X W^T - X~ Q^T|_F / |X W^T|_F on the calibration images.

    nearest_error: of the nearest codes on the same grid, after the same layers before it. rows: how many rows of X.
    """

    name: str
    weight: PackedWeight
    error: float
    nearest_error: float
    rows: int


def quantize_network(onnx_path: Path, images: np.ndarray, cfg: Gpfq, seed: int) -> dict[str, QuantizedLayer]:
    """Weight name -> its codes, for every layer of a clean float network that `cfg` does not leave float.

    images: float32 (n, 3, S, S) as the target side feeds them. A weight that two layers share is quantized where it is
    first used. Raises DataError for no images or another shape; OnnxError naming the layer whose inputs are NaN,
    infinite or always zero, or whose weights leave no room for the alphabet.
    """
    found = _chosen(layers(read_onnx(onnx_path).graph), cfg)
    replay = Replay(onnx_path, found)
    _check_images(onnx_path, images, replay.shape)
    quantized, done = dict(replay.weights), dict[str, QuantizedLayer]()
    with console.bar("gpfq", len(found)) as progress:
        for index, layer in enumerate(found):
            name = layer.weight.name or ""
            if name not in done:
                where = f"{onnx_path}: layer {layer.name}"
                inputs = _inputs(layer, replay, quantized, images, cfg, (seed, index), where)
                done[name] = _quantize_layer(layer, inputs, cfg, where)
                quantized[name] = done[name].weight.values
            progress.advance()
    return done


def write_quantized(onnx_path: Path, done: Mapping[str, QuantizedLayer], out_path: Path) -> None:
    """The same float network with the quantized weights' values in it."""
    model = read_onnx(onnx_path)
    for name, layer in done.items():
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(np.ascontiguousarray(layer.weight.values), name=name)
    write_onnx(model, out_path)


def facts(done: Mapping[str, QuantizedLayer], cfg: Gpfq) -> dict[str, Any]:
    """What gpfq.json holds: per layer bits, levels, coding, error and packed bytes, and the totals."""
    rows: list[dict[str, Any]] = [{
             "name": layer.name, "weight": name, "parameters": layer.weight.codes.size, "bits": cfg.bits,
             "levels": layer.weight.levels, "coding": smallest_coding(layer.weight.levels).name, "radius": cfg.radius,
             "scales": layer.weight.scale.size, "zeros": int((layer.weight.codes == 0).sum()), "rows": layer.rows,
             "relative_error": layer.error, "nearest_relative_error": layer.nearest_error,
             "packed_bytes": layer.weight.stored_bytes} for name, layer in done.items()]
    return {"schema_version": 1, "bits": cfg.bits, "alphabet": cfg.alphabet, "precisions": list(cfg.precisions),
            "layers": rows, "parameters": sum(row["parameters"] for row in rows),
            "float_bytes": 4 * sum(row["parameters"] for row in rows),
            "packed_bytes": sum(row["packed_bytes"] for row in rows)}


def weight_amax(weights: Mapping[str, PackedWeight], steps: int) -> dict[str, list[float]]:
    """amax per output channel of each weight, from which scale = amax / steps gives its codes back."""
    channels = {name: weight.codes.shape[weight.axis] for name, weight in weights.items()}
    return {name: np.broadcast_to(weight.scale.astype(np.float64) * steps, channels[name]).tolist()
            for name, weight in weights.items()}


class Replay:
    """A network opened with its layers' weights as inputs and its layers' inputs as outputs."""

    def __init__(self, onnx_path: Path, found: list[Layer]) -> None:
        self.path = onnx_path
        self.weights = {layer.weight.name or "": np.ascontiguousarray(layer.array) for layer in found}
        proto = ir.to_proto(read_onnx(onnx_path))
        self.input = proto.graph.input[0].name
        kept = [tensor for tensor in proto.graph.initializer if tensor.name not in self.weights]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        proto.graph.input.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, weight.shape)
                                 for name, weight in self.weights.items())
        outputs = {value.name for value in proto.graph.output} | {self.input}
        wanted = dict.fromkeys(layer.input.name or "" for layer in found)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = 3
        self.only_needed = ort.RunOptions()
        self.only_needed.only_execute_path_to_fetches = True
        try:
            self.session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as wrong:  # onnxruntime's exceptions share no base class
            reason = str(wrong).splitlines()[0][:200]
            raise OnnxError(f"{onnx_path}: onnxruntime cannot load it for GPFQ: {reason}") from None
        self.shape = self.session.get_inputs()[0].shape
        self.batch = self.shape[0] if isinstance(self.shape[0], int) else 1

    def run(self, tensor: str, image: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The value of `tensor` for one image (3, S, S), batch axis 1. A fixed batch is filled with copies."""
        if tensor == self.input:
            return image[None]
        feeds = {self.input: np.repeat(image[None], self.batch, axis=0), **weights}
        value = self.session.run([tensor], feeds, self.only_needed)[0]
        return value if self.batch == 1 else value[: max(1, len(value) // self.batch)]


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its input; all per spatial axis, pads as (before, after)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def view(self, value: np.ndarray) -> np.ndarray:
        """(C, *S) -> (C, *positions, *kernel), copying only what padding copies."""
        padded = np.pad(value, [(0, 0), *self.pads])
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        axes = tuple(range(1, value.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
        steps = [slice(None, None, step) for step in (1, *self.strides, *self.dilations)]
        return windows[tuple(steps)]


def window(node: ir.Node, kernel: tuple[int, ...], size: tuple[int, ...]) -> Window:
    """The window of a Conv over an input of spatial `size` (ONNX's auto_pad included)."""
    axes = len(kernel)
    strides, dilations = _ints(node, "strides", (1,) * axes), _ints(node, "dilations", (1,) * axes)
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if automatic.startswith("SAME"):
        total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                 for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (small, large) if automatic == "SAME_UPPER" else (large, small)
    else:
        pads = _ints(node, "pads", (0,) * 2 * axes)
        before, after = list(pads[:axes]), list(pads[axes:])
    return Window(kernel, strides, dilations, tuple(zip(before, after, strict=True)))


def rows_of(layer: Layer, value: np.ndarray, share: float, seed: tuple[int, ...]) -> np.ndarray:
    """One image's rows (g, rows, d) for a layer whose input is `value` (1, C, *S) or (1, …, d).

    Of several positions a share, at least one, is drawn without replacement; the draw depends on `seed` alone.
    """
    if layer.op != "Conv":
        rows = value.reshape(-1, value.shape[-1])
        return rows[_drawn(len(rows), share, seed)][None]
    weight = layer.array
    groups = layer.node.attributes["group"].as_int() if "group" in layer.node.attributes else 1
    view = window(layer.node, weight.shape[2:], value.shape[2:]).view(value[0])
    positions = view.shape[1 : 1 + len(weight.shape[2:])]
    drawn = np.unravel_index(_drawn(prod(positions), share, seed), positions)
    index: tuple[Any, ...] = (slice(None), *drawn)
    patches = view[index]  # (C, rows, *kernel)
    patches = patches.reshape(groups, -1, *patches.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(patches).reshape(groups, len(drawn[0]), -1)


def _chosen(found: list[Layer], cfg: Gpfq) -> list[Layer]:
    """All layers, or all but the first and last where the engine that holds the codes keeps those float."""
    sections = {"int4": cfg.int4.first_last, "int8_weight_only": cfg.int8.first_last, "int8": cfg.int8.first_last}
    return found[1:-1] if sections.get(cfg.precisions[0]) == "float" else found


def _inputs(layer: Layer, replay: Replay, quantized: Mapping[str, np.ndarray], images: np.ndarray, cfg: Gpfq,
            seed: tuple[int, int], where: str) -> Inputs:
    """Run the images through both networks up to the layer and collect its rows."""
    found, tensor = None, layer.input.name or ""
    for number, image in enumerate(images):
        values = replay.run(tensor, image, replay.weights), replay.run(tensor, image, quantized)
        if not all(np.isfinite(value).all() for value in values):
            raise OnnxError(f"{where}: its input '{tensor}' holds NaN or infinity for calibration image {number}; "
                            "expected finite values; train again with a lower learning rate")
        x, x_quantized = (rows_of(layer, value, cfg.patches, (*seed, number)) for value in values)
        if found is None:
            found = Inputs(_neurons(layer, len(x)), x.shape[1] * len(images))
        found.add(x, x_quantized)
    assert found is not None
    if found.silent:
        raise OnnxError(f"{where}: its input '{tensor}' is zero for all {len(images)} calibration images, so there is "
                        "nothing to choose codes by; use more images (quantize.images), or remove this layer")
    return found


def _neurons(layer: Layer, groups: int) -> np.ndarray:
    """The layer's weight as (g, n, d)."""
    rows = layer.array if layer.axis == 0 else layer.array.T
    return np.ascontiguousarray(rows).reshape(groups, len(rows) // groups, -1)


def _quantize_layer(layer: Layer, inputs: Inputs, cfg: Gpfq, where: str) -> QuantizedLayer:
    alphabet, neurons = Alphabet.of(cfg), inputs.weights
    try:
        scale = scales(neurons.reshape(-1, neurons.shape[2]), alphabet, cfg)
    except ValueError as wrong:
        raise OnnxError(f"{where}: {wrong}") from None
    spread = scale.reshape(neurons.shape[:2])
    codes, nearest = gpfq(inputs, spread, alphabet), alphabet.codes(neurons, spread[:, :, None])
    errors = [inputs.relative_error(alphabet.values(c, spread[:, :, None])) for c in (codes, nearest)]
    shaped = codes.reshape(layer.array.shape) if layer.axis == 0 else codes.reshape(layer.array.shape[::-1]).T
    stored = scale if cfg.radius == "channel" else scale[:1]
    packed = PackedWeight(shaped, stored, layer.axis, alphabet.levels, alphabet.hard)
    return QuantizedLayer(layer.name, packed, errors[0], errors[1], inputs.seen)


def _drawn(count: int, share: float, seed: tuple[int, ...]) -> np.ndarray:
    """Positions drawn without replacement, in order; all of them when there is one."""
    if share == 1 or count == 1:
        return np.arange(count)
    return np.sort(np.random.RandomState(seed).permutation(count)[: max(1, round(share * count))])


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def _check_images(onnx_path: Path, images: np.ndarray, shape: list[Any]) -> None:
    if not len(images):
        raise DataError(f"{onnx_path}: no calibration images; expected at least 1")
    fits = images.ndim == len(shape) and all(
        not isinstance(size, int) or size == found for size, found in zip(shape[1:], images.shape[1:], strict=True))
    if not fits or images.dtype != np.float32:
        raise DataError(f"{onnx_path}: calibration images are {images.dtype} {images.shape}; expected float32 (n, "
                        f"{', '.join(map(str, shape[1:]))}); set data.image_size to the network's input size")

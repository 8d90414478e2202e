"""Calibration: run images through the clean float network in ONNX Runtime and keep a histogram per tensor.

One image at a time and histograms that are blind to order, so the ranges depend on the set of images alone;
memory holds one image's activations, however many images there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from toolchain import console
from toolchain.errors import DataError, OnnxError
from toolchain.graph.layers import layer_name, layers, quantizable_tensors
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.amax import choose_amax
from toolchain.quantize.histogram import Histogram
from toolchain.ranges import ActivationRange, Ranges
from toolchain.recipe.schema import Calibrator

THREADS = 2
FLOAT = onnx.TensorProto.FLOAT


def calibrate(onnx_path: Path, images: Iterable[np.ndarray], cfg: Calibrator, total: int | None = None) -> Ranges:
    """Ranges of every tensor that a target may quantize.

    images: float32 arrays (n, 3, S, S) as the target side feeds them; total: how many images, for the progress bar.
    Raises OnnxError naming the layer whose values are NaN or infinite, DataError for images of the wrong shape or none.
    """
    network = Network(onnx_path)
    histograms = {name: Histogram() for name in network.tensors}
    count = 0
    with console.bar("calibrate", total) as progress:
        for batch in images:
            for image in network.checked(batch):
                for name, values in network.run(image).items():
                    if not histograms[name].add(values):
                        raise OnnxError(network.not_finite(name, image, count))
                count += 1
                progress.advance()
    if not count:
        raise DataError(f"{onnx_path}: no calibration images; expected at least 1")
    # The network's input is bounded by its preprocessing, and a plain background makes a spike that the entropy search
    # takes for the whole image: nothing of it is clipped, whatever the calibrator.
    found = {name: ActivationRange(h.min, h.max, h.amax if name == network.input else choose_amax(h, cfg))
             for name, h in histograms.items()}
    return Ranges(found, {}, f"{cfg.method} on {count} images")


class Network:
    """A float ONNX file opened so that its quantizable tensors come out with every image."""

    def __init__(self, onnx_path: Path) -> None:
        self.path = onnx_path
        model = read_onnx(onnx_path)
        proto = ir.to_proto(model)
        self.producers = {out.name or "": layer_name(node) for node in model.graph for out in node.outputs}
        kinds = {info.name: info.type.tensor_type.elem_type
                 for info in onnx.shape_inference.infer_shapes(proto).graph.value_info}
        self.input = model.graph.inputs[0].name or ""
        self.tensors = [name for name in quantizable_tensors(model.graph) if kinds.get(name, FLOAT) == FLOAT]
        outputs = {value.name for value in model.graph.outputs}
        self.inner = [name for name in self.tensors if name != self.input]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.inner if name not in outputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as wrong:  # onnxruntime's exceptions share no base class
            reason = str(wrong).splitlines()[0][:200]
            raise OnnxError(f"{onnx_path}: onnxruntime cannot load it for calibration: {reason}") from None
        self.shape = self.session.get_inputs()[0].shape
        self.batch = self.shape[0] if isinstance(self.shape[0], int) else 1

    def checked(self, images: np.ndarray) -> np.ndarray:
        """`images` (n, 3, S, S) float32 as they are, or DataError saying what is wrong with them."""
        expected = [size if isinstance(size, int) else None for size in self.shape[1:]]
        fits = images.ndim == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(expected, images.shape[1:], strict=True))
        if not fits or images.dtype != np.float32:
            sizes = ", ".join("any" if size is None else str(size) for size in expected)
            raise DataError(f"{self.path}: calibration images are {images.dtype} {tuple(images.shape)}; expected "
                            f"float32 (n, {sizes}); set data.image_size to the network's input size")
        return images

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """One image (3, S, S) -> the value of every quantizable tensor. A fixed batch is filled with copies of it."""
        outputs = self.session.run(self.inner, {self.input: np.repeat(image[None], self.batch, axis=0)})
        values = dict(zip(self.inner, outputs, strict=True))
        if self.batch > 1:
            values = {name: v[:1] if len(v) == self.batch else v for name, v in values.items()}
        return {name: image if name == self.input else values[name] for name in self.tensors}

    def not_finite(self, name: str, image: np.ndarray, index: int) -> str:
        """What to tell the user when tensor `name` holds NaN or infinity for image number `index`."""
        if not np.isfinite(image).all():
            return f"calibration image {index} holds NaN or infinity after preprocessing; check data.mean and data.std"
        return (f"{self.path}: layer {self.producers.get(name, name)} produces NaN or infinity for calibration image "
                f"{index} (tensor '{name}'); expected finite values; train again with a lower learning rate")


def overlay(ranges: Ranges, learned: Mapping[str, Mapping[str, Any]], onnx_path: Path) -> Ranges:
    """QAT's learned ranges laid over calibrated ones.

    learned: weight parameter name -> {"input_amax": float, "weight_amax": [per output channel]}; the parameter is the
    initializer of that name, and its layer's input is the tensor. Layers that share an input keep the largest amax.
    Raises OnnxError when a learned layer is not in the network, or its channels do not match.
    """
    by_weight = {layer.weight.name or "": layer for layer in layers(read_onnx(onnx_path).graph)}
    unknown = sorted(set(learned) - set(by_weight))
    if unknown:
        raise OnnxError(f"{onnx_path}: learned ranges for {', '.join(unknown[:3])}, but its layers are "
                        f"{', '.join(list(by_weight)[:3])}, …; the ranges belong to another network")
    weights, inputs = dict(ranges.weights), dict[str, float]()
    for name, found in learned.items():
        layer, amax = by_weight[name], [float(a) for a in found["weight_amax"]]
        channels = layer.array.shape[layer.axis]
        if len(amax) != channels:
            raise OnnxError(f"{onnx_path}: {name} has {channels} output channels, but {len(amax)} learned ranges")
        tensor = layer.input.name or ""
        weights[name] = amax
        inputs[tensor] = max(inputs.get(tensor, 0.0), float(found["input_amax"]))
    activations = dict(ranges.activations)
    for tensor, input_amax in inputs.items():
        seen = activations.get(tensor, ActivationRange(-input_amax, input_amax, input_amax))
        activations[tensor] = ActivationRange(seen.min, seen.max, input_amax)
    return Ranges(activations, weights, f"learned for {len(learned)} layers, {ranges.method} elsewhere")


def input_amax(ranges: Ranges, onnx_path: Path) -> dict[str, float]:
    """Calibrated amax of each layer's input, by the name of the layer's weight: where QAT starts from."""
    return {layer.weight.name or "": ranges.activations[layer.input.name or ""].amax
            for layer in layers(read_onnx(onnx_path).graph) if layer.input.name in ranges.activations}

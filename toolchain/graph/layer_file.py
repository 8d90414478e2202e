"""A few layers as an ONNX file of their own, with random weights: what one layer of a network costs can then be timed.

The form is that of our clean float files: dynamic batch, `images` (N, C, H, W) float32 -> `logits` (N, K) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir.passes.common as passes
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from toolchain.errors import OnnxError
from toolchain.files import write_bytes
from toolchain.graph.layers import Layer, layers
from toolchain.graph.onnx_file import IR_VERSION, check_onnx, read_onnx

OPSET = 21
Pair = tuple[int, int]


@dataclass(frozen=True)
class LayerShape:
    """One layer as the runtime sees it: BatchNorm folded into its weights, with a bias and perhaps a ReLU.

    kernel, stride, padding, dilation: (vertical, horizontal), padding on each side. height, width: of the input in
    pixels; a linear layer reads channels * height * width = in_channels features of a flattened input where it is not
    1 x 1.
    """

    op: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    height: int = 1
    width: int = 1
    relu: bool = True

    @property
    def output_size(self) -> Pair:
        """(height, width) of the output in pixels; (1, 1) of a linear layer."""
        if self.op == "linear":
            return 1, 1
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        high, wide = ((size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, gap in sizes)
        return high, wide

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        per_output = self.in_channels // self.groups * prod(self.kernel) if self.op == "conv" else self.in_channels
        return self.out_channels * prod(self.output_size) * per_output

    @property
    def weights(self) -> int:
        """Values of its weight, without the bias."""
        return self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)

    @property
    def elements(self) -> int:
        """Values read and written for one image: what the layer takes and what it gives."""
        return self.in_channels * self.height * self.width + self.out_channels * prod(self.output_size)


def write_layers(path: Path, shapes: Sequence[LayerShape], seed: int = 0) -> None:
    """Write the layers one after another; a chain that ends in a convolution is averaged over its pixels.

    So the output is (N, out_channels) of the last layer. Weights are drawn by `seed` so that activations keep their
    size. Raises OnnxError when a layer does not take what the one before it gives.
    """
    _check_chain(path, shapes)
    rng, nodes = np.random.default_rng(seed), list[NodeProto]()
    tensors = {"flat": np.array([0, -1], np.int64)}
    at, flat = "images", False
    for number, shape in enumerate(shapes):
        if shape.op == "linear" and not flat:
            at, flat = _add(nodes, "Reshape", [at, "flat"], f"{number}_input"), True
        tensors |= _weights(rng, shape, number)
        inputs = [at, f"{number}.weight", f"{number}.bias"]
        at = (_add(nodes, "Gemm", inputs, f"{number}_gemm", transB=1) if shape.op == "linear" else
              _add(nodes, "Conv", inputs, f"{number}_conv", kernel_shape=shape.kernel, strides=shape.stride,
                   pads=[*shape.padding, *shape.padding], dilations=shape.dilation, group=shape.groups))
        at = _add(nodes, "Relu", [at], f"{number}_relu") if shape.relu else at
    if not flat:
        at = _add(nodes, "Reshape", [_add(nodes, "GlobalAveragePool", [at], "pooled"), "flat"], "flattened")
    nodes[-1].output[0] = "logits"
    model = _model(nodes, tensors, shapes)
    check_onnx(model, path)
    write_bytes(path, model.SerializeToString(deterministic=True))


def _add(nodes: list[NodeProto], op: str, inputs: list[str], output: str, **attributes: Any) -> str:
    nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
    return output


def _weights(rng: np.random.Generator, shape: LayerShape, number: int) -> dict[str, np.ndarray]:
    size: tuple[int, ...] = (shape.out_channels, shape.in_channels)
    if shape.op == "conv":
        size = (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)
    weight = rng.standard_normal(size, np.float32) / np.sqrt(np.float32(prod(size[1:])))
    return {f"{number}.weight": weight, f"{number}.bias": np.zeros(shape.out_channels, np.float32)}


def _model(nodes: list[NodeProto], tensors: dict[str, np.ndarray], shapes: Sequence[LayerShape]) -> ModelProto:
    first, kind = shapes[0], TensorProto.FLOAT
    channels = first.in_channels if first.op == "conv" else first.in_channels // (first.height * first.width)
    images = helper.make_tensor_value_info("images", kind, ["batch", channels, first.height, first.width])
    logits = helper.make_tensor_value_info("logits", kind, ["batch", shapes[-1].out_channels])
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "layers", [images], [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                             producer_name="toolchain")


def _check_chain(path: Path, shapes: Sequence[LayerShape]) -> None:
    if not shapes:
        raise OnnxError(f"{path}: found no layer to write, expected at least one")
    for number, (before, after) in enumerate(zip(shapes, shapes[1:], strict=False), start=1):
        given: tuple[int, ...] = (before.out_channels, *before.output_size)
        taken: tuple[int, ...] = (after.in_channels, after.height, after.width)
        if after.op == "linear":
            given, taken = (prod(given),), (after.in_channels,)
        if given != taken or (before.op, after.op) == ("linear", "conv"):
            raise OnnxError(f"{path}: layer {number} takes {taken}, but layer {number - 1} gives {given}; expected a "
                            "chain of layers that fit")


def layer_shapes(onnx: Path) -> dict[str, LayerShape]:
    """Layer name -> shape of every Conv and linear layer of a clean float file, in the order they run.

    relu: an activation is all that reads the layer. Raises OnnxError when the file or a layer's input size is unknown.
    """
    model = read_onnx(onnx)
    passes.ShapeInferencePass()(model)
    return {layer.name: _shape(layer, onnx) for layer in layers(model.graph)}


def _shape(layer: Layer, onnx: Path) -> LayerShape:
    sizes, outputs = layer.array.shape, layer.node.outputs[0]
    readers = [use.node.op_type for use in outputs.uses()]
    relu = len(readers) == 1 and readers[0] in ("Relu", "Clip")
    if layer.op != "Conv":
        return LayerShape("linear", sizes[1 - layer.axis], sizes[layer.axis], relu=relu)
    given = [size for size in list(layer.input.shape or [])[2:] if isinstance(size, int)]
    if len(given) != 2:
        raise OnnxError(f"{onnx}: the input of layer {layer.name} has no fixed height and width; export it with a "
                        "fixed image size")

    def pair(name: str, default: int) -> Pair:
        found = layer.node.attributes.get(name)
        high, wide = tuple(found.as_ints())[:2] if found is not None else (default, default)
        return int(high), int(wide)

    group = layer.node.attributes.get("group")
    groups = int(group.as_int()) if group is not None else 1
    return LayerShape("conv", sizes[1] * groups, sizes[0], (sizes[2], sizes[3]), pair("strides", 1), pair("pads", 0),
                      pair("dilations", 1), groups, given[0], given[1], relu)

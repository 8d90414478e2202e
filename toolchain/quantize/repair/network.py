"""The float network under repair: its weights and biases, changed in place, and what images do in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.errors import DataError, OnnxError
from toolchain.graph.clean import drop_unused
from toolchain.graph.compare import open_session
from toolchain.graph.edit import add_initializer, constant
from toolchain.graph.layers import Layer, layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.repair.grid import Grid, Target, weight_grid

Images = Iterable[np.ndarray]


@dataclass
class Network:
    """One file under repair.

    images: gives the calibration images, float32 (n, 3, S, S), anew at each call. weight_amax: grids that are settled,
    by weight name. learned: weights whose rounding was learned. activations_changed: inner tensors hold other values
    than in the file that was read.
    """

    path: Path
    model: ir.Model
    target: Target
    images: Callable[[], Images]
    seed: int
    weight_amax: dict[str, np.ndarray] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    activations_changed: bool = False

    @cached_property
    def image_count(self) -> int:
        """How many calibration images there are."""
        return sum(1 for _ in each_image(self.images()))

    def quantized(self) -> list[Layer]:
        """The layers that the target quantizes, in order."""
        return self.target.quantized(layers(self.model.graph))

    def grid(self, layer: Layer) -> Grid:
        """The values that the layer's weight can take."""
        return weight_grid(layer, self.target, self.weight_amax.get(layer.weight.name or ""))


def read_network(path: Path, target: Target, images: Callable[[], Images], seed: int) -> Network:
    """Open a clean float file. Raises OnnxError."""
    model = read_onnx(path)
    passes.ShapeInferencePass()(model)
    return Network(path, model, target, images, seed)


def copy_of(model: ir.Model) -> ir.Model:
    """The same model in objects of its own."""
    return ir.from_proto(ir.to_proto(model))


def store(value: ir.Value, array: np.ndarray) -> None:
    """Give a stored tensor other numbers of the same shape; they become float32."""
    value.const_value = ir.Tensor(np.ascontiguousarray(array, np.float32), name=value.name)


def owned(layer: Layer) -> bool:
    """No other node reads this layer's weight, so it can be changed."""
    return len(layer.weight.uses()) == 1


def result(layer: Layer) -> ir.Value:
    """The layer's output, bias included: a MatMul's bias is the constant Add that alone reads it."""
    place = _bias_place(layer)
    return (place[0] if place else layer.node).outputs[0]


def bias(layer: Layer) -> np.ndarray | None:
    """(output channels,) float32, zeros where none is stored; None for a MatMul, which has no place for one."""
    place, channels = _bias_place(layer), layer.array.shape[layer.axis]
    if place is None:
        return None
    node, position = place
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        return np.zeros(channels, np.float32)
    found = constant(value)
    if found is None or found.size not in (1, channels):
        return None
    return np.broadcast_to(found.reshape(-1), (channels,)).astype(np.float32)


def store_bias(graph: ir.Graph, layer: Layer, array: np.ndarray) -> None:
    """Replace the bias; where it stood in the file under a name of its own, the name stays."""
    place = _bias_place(layer)
    assert place is not None
    node, position = place
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is not None and len(value.uses()) == 1 and value.shape == (len(array),):
        store(value, array)
        return
    fresh = add_initializer(graph, f"{layer.weight.name}_bias", np.ascontiguousarray(array, np.float32))
    node.resize_inputs(max(position + 1, len(node.inputs)))
    node.replace_input_with(position, fresh)


def _bias_place(layer: Layer) -> tuple[ir.Node, int] | None:
    if layer.op != "MatMul":
        return layer.node, 2
    uses = list(layer.node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or layer.node.outputs[0].is_graph_output():
        return None
    add, other = uses[0].node, 1 - uses[0].idx
    return (add, other) if constant(add.inputs[other]) is not None else None


class Tap:
    """Some tensors of a float network, image by image; whatever they do not depend on is not computed."""

    def __init__(self, network: Network, model: ir.Model, names: Sequence[str]) -> None:
        """model: is consumed. Raises OnnxError when ONNX Runtime cannot load it."""
        self.path, self.names = network.path, list(dict.fromkeys(names))
        self.input = model.graph.inputs[0].name or ""
        inner = {out.name: out for node in model.graph for out in node.outputs}
        self.inner = [name for name in self.names if name != self.input]
        if not self.inner:
            self.session, self.batch = None, 1
            return
        model.graph.outputs[:] = [inner[name] for name in self.inner]
        drop_unused(model)
        self.session = open_session(ir.to_proto(model).SerializeToString())
        shape = self.session.get_inputs()[0].shape
        self.batch = shape[0] if isinstance(shape[0], int) else 1

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """One image (3, S, S) -> each tensor's value for it, (1, …). A fixed batch is filled with copies."""
        values = {self.input: image[None]}
        if self.session is not None:
            feed = np.repeat(image[None], self.batch, axis=0)
            outputs = self.session.run(self.inner, {self.input: feed})
            values |= {name: out[:1] if len(out) == self.batch else out
                       for name, out in zip(self.inner, outputs, strict=True)}
        for name in self.names:
            if not np.isfinite(values[name]).all():
                raise OnnxError(f"{self.path}: tensor '{name}' is NaN or infinite for a calibration image; expected "
                                "finite values; check data.mean and data.std, or train with a lower learning rate")
        return values


def each_image(images: Images) -> Iterator[np.ndarray]:
    """The images of all batches, one (3, S, S) at a time. Raises DataError when there is none."""
    count = 0
    for batch in images:
        for image in batch:
            count += 1
            yield image
    if not count:
        raise DataError("repair: no calibration images; expected at least 1")

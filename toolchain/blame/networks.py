"""Networks between the float and the quantized one: float but for one layer, which is as the quantized file has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from toolchain.blame.align import Aligned, Grid, readable
from toolchain.engines.batching import in_batches
from toolchain.engines.ort_session import session_options, short_reason
from toolchain.errors import EngineError
from toolchain.graph.edit import add_initializer, insert
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx

Logits = NDArray[np.float32]  # (n, K)
PARTS = ("weight", "input")


def isolated(float_onnx: Path, some: Collection[Aligned], parts: Collection[str] = PARTS) -> ir.Model:
    """The float network in which these layers alone are quantized, with the very scales and codes of the file.

    parts: "weight": their weights, dequantized. "input": the pairs that they answer for. Everything else is float.
    """
    model = read_onnx(float_onnx)
    graph = model.graph
    by_weight = {one.weight_name: one for one in some}
    nodes = {node.outputs[0].name: node for node in graph}
    for layer in layers(graph):
        one = by_weight.get(layer.weight.name or "")
        if one is None:
            continue
        if "weight" in parts and one.weight is not None:
            layer.weight.const_value = ir.Tensor(one.weight, name=layer.weight.name)
        if "input" in parts and layer.input.name in one.inputs and layer.input.name in one.grids:
            _round(graph, layer.node, 0, one.grids[layer.input.name])
    for one in some if "input" in parts else ():
        for read in one.reads:
            if read.node in nodes and read.position < len(nodes[read.node].inputs):
                _round(graph, nodes[read.node], read.position, one.grids[read.tensor])
    return model


def _round(graph: ir.Graph, node: ir.Node, position: int, grid: Grid) -> None:
    """A pair before one input of one node."""
    value = node.inputs[position]
    assert value is not None
    scale = add_initializer(graph, f"{value.name}_blame_scale", np.asarray(grid.scale, np.float32))
    zero = add_initializer(graph, f"{value.name}_blame_zero_point", grid.zero_point.reshape(()))
    codes = insert(graph, node, "QuantizeLinear", [value, scale, zero], f"{value.name}_blame_codes")
    node.replace_input_with(position, insert(graph, node, "DequantizeLinear", [codes, scale, zero],
                                             f"{value.name}_blame_value"))


@dataclass
class Runner:
    """A network open in ONNX Runtime, with some of its tensors as outputs beside the logits.

    optimize: with fused kernels; never with FP8, before whose QuantizeLinear ONNX Runtime drops a Relu as it may before
    one of UINT8, which clips at 0 by itself (its rule ReluQuantRewrite, seen in 1.31).
    """

    model: ir.Model
    name: str
    tensors: Sequence[str] = ()
    optimize: bool = True

    def __post_init__(self) -> None:
        proto = ir.to_proto(self.model)
        self.logits = proto.graph.output[0].name
        for tensor in self.tensors:
            if tensor not in {value.name for value in proto.graph.output}:
                proto.graph.output.add().name = tensor
        self.session = _opened(proto.SerializeToString(), self.optimize and not _has_fp8(self.model), self.name)
        given = self.session.get_inputs()[0]
        self.input, fixed = given.name, given.shape[0]
        self.sizes = (fixed, fixed) if isinstance(fixed, int) else (1, None)

    def values(self, images: NDArray[np.float32]) -> dict[str, np.ndarray]:
        """Every asked tensor and the logits for one batch that the file takes (its own size where it is fixed)."""
        wanted = list(dict.fromkeys([self.logits, *(t for t in self.tensors if t != self.input)]))
        count = len(images)
        if self.sizes[1] is not None:
            images = np.concatenate([images, np.repeat(images[-1:], self.sizes[1] - count, axis=0)])
        try:
            found = dict(zip(wanted, self.session.run(wanted, {self.input: images}), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"{self.name}: ONNX Runtime cannot run it: {short_reason(error)}") from None
        found[self.input] = images
        return {name: value[:count] for name, value in found.items()}

    def answers(self, batches: Iterable[NDArray[np.float32]]) -> Logits:
        """Logits of all images."""
        def run(images: NDArray[np.float32]) -> Logits:
            return self.session.run([self.logits], {self.input: images})[0].astype(np.float32, copy=False)

        try:
            return np.concatenate([in_batches(run, batch, self.sizes) for batch in batches])
        except Exception as error:
            raise EngineError(f"{self.name}: ONNX Runtime cannot run it: {short_reason(error)}") from None

    def each(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[dict[str, np.ndarray]]:
        """`values` of all images, a batch at a time, in the file's own batch size where it is fixed."""
        for batch in batches:
            size = self.sizes[1] or len(batch)
            for start in range(0, len(batch), size):
                yield self.values(batch[start : start + size])


def _has_fp8(model: ir.Model) -> bool:
    return any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in model.graph.initializers.values())


def _opened(content: bytes, optimize: bool, name: str) -> ort.InferenceSession:
    """A session. optimize: with fused kernels, but pairs of Q and DQ stay where they stand: ONNX Runtime moves single
    ones past other nodes, which costs a network that is float elsewhere up to five times the error it has."""
    options = session_options(None)
    if optimize:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"{name}: ONNX Runtime {ort.__version__} refuses it: {short_reason(error)}") from None


def open_file(path: Path, tensors: Sequence[str] = (), half: bool = False) -> Runner:
    """A file as its graph says. half: node by node, for ONNX Runtime's optimised kernels are wrong there."""
    return Runner(readable(path), str(path), tensors, optimize=not half)

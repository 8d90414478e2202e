"""What a weight is made of: the tensors stored in the file, whatever decodes them, and the numbers that come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from toolchain.graph.compare import open_session
from toolchain.graph.edit import constant


def constants(value: ir.Value | None) -> tuple[list[ir.Node], list[ir.Value]]:
    """(nodes, stored tensors) that make a weight, each once, the nearest first; no tensors when it is not constant."""
    nodes: list[ir.Node] = []
    stored: list[ir.Value] = []
    waiting, seen = deque([value]), set[ir.Value | ir.Node]()
    while waiting:
        here = waiting.popleft()
        producer = here.producer() if here is not None else None
        met = here if producer is None else producer  # a node may have several results
        if here is None or met is None or met in seen:
            continue
        seen.add(met)
        if producer is not None:
            nodes.append(producer)
            waiting += producer.inputs
        elif constant(here) is not None:
            stored.append(here)
        else:
            return nodes, []
    return nodes, stored


def decoded(model: ir.Model, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Weight tensors of these names as float32, computed by ONNX Runtime from what is stored, as the file says.

    Formats are left to it, so each that it reads is understood, and a wrong scale is seen. Raises OnnxError when it
    cannot compute them.
    """
    values = {value.name: value for node in model.graph for value in node.outputs}
    wanted, stored = dict.fromkeys(names), model.graph.initializers
    found = {name: stored[name].const_value.numpy() for name in wanted if name in stored}  # type: ignore[union-attr]
    made = [name for name in wanted if name not in found]
    if made:
        found |= dict(zip(made, _run(model, [values[name] for name in made]), strict=True))
    return {name: array.astype(np.float32) for name, array in found.items()}


def _run(model: ir.Model, outputs: list[ir.Value]) -> list[np.ndarray]:
    """Run the part of the graph that makes `outputs` out of stored tensors."""
    parts = [constants(value) for value in outputs]
    needed = {node for nodes, _ in parts for node in nodes}
    stored = {tensor.name for _, tensors in parts for tensor in tensors}
    nodes = [ir.to_proto(node) for node in model.graph if node in needed]
    nodes += [helper.make_node("Cast", [str(value.name)], [f"decoded_{i}"], to=onnx.TensorProto.FLOAT)
              for i, value in enumerate(outputs)]
    told = [helper.make_tensor_value_info(f"decoded_{i}", onnx.TensorProto.FLOAT, None) for i in range(len(outputs))]
    tensors = [ir.to_proto(tensor.const_value) for name, tensor in model.graph.initializers.items()
               if name in stored and tensor.const_value is not None]
    graph = helper.make_graph(nodes, "weights", [], told, tensors)
    opsets = [helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    alone = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    return list(open_session(alone.SerializeToString(), optimize=False).run(None, {}))

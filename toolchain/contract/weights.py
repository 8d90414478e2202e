"""Do the stored weights still say what the float ones said? Decoded layer by layer, and compared.

This finds codes with another channel's scale, a swapped nibble or a damaged tensor, which no runtime complains of, and
names the layer. Rounding alone moves a layer's weights by far less than the limits: relative to their L2 norm, INT8
per channel by 1-2 %, FP8 by 3 %, INT4 in blocks by 8-15 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from toolchain.contract.engine_file import FileLayer, matched, read_file
from toolchain.contract.trace import constants
from toolchain.graph.compare import open_session
from toolchain.graph.onnx_file import read_onnx

# largest |decoded - float| / |float| (L2) that rounding explains
LARGEST = {"fp32": 1e-6, "fp16": 0.01, "bf16": 0.02, "fp8": 0.15, "int8": 0.15, "int8_weight_only": 0.15, "int4": 0.6}


def wrong_weights(source: Path, path: Path, asked: Mapping[str, str], held: Mapping[str, FileLayer]) -> dict[str, str]:
    """Layer name -> what is wrong with the weights that `path` holds for it, for the layers where something is.

    source: the float file. asked: layer name -> precision. Raises OnnxError when a file cannot be read.
    """
    floats = matched(list(asked), read_file(source).layers)
    both = [name for name in asked if name in floats and name in held]
    before = _decoded(source, [floats[name].weight for name in both])
    after = _decoded(path, [held[name].weight for name in both])
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


def _decoded(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Weight tensors of the file as float32, computed from what is stored."""
    model = read_onnx(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    wanted = dict.fromkeys(names)
    found = {name: model.graph.initializers[name].const_value.numpy() for name in wanted  # type: ignore[union-attr]
             if name in model.graph.initializers}
    made = [name for name in wanted if name not in found]
    if made:
        found |= dict(zip(made, _run(model, [values[name] for name in made]), strict=True))
    return {name: array.astype(np.float32) for name, array in found.items()}


def _run(model: ir.Model, outputs: list[ir.Value]) -> list[np.ndarray]:
    """Run the part of the graph that makes `outputs` out of stored tensors."""
    needed = {node for value in outputs for node in constants(value)[0]}
    stored = {tensor.name for value in outputs for tensor in constants(value)[1]}
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

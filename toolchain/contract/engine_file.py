"""What an engine's ONNX file asks of each layer: how its weights are stored, what feeds it, what reads its result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.contract.trace import (
    Codes,
    aliases,
    codes_before,
    codes_behind,
    float_reader,
    float_type,
    integer,
    kind,
    live_values,
    own_names,
    size,
)
from toolchain.graph.edit import constant
from toolchain.graph.layers import LAYER_OPS, channel_axis, layer_name
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.stored import constants

WEIGHT_SUFFIXES = ("_codes", ".weight", ".weight_folded")


@dataclass(frozen=True)
class FileLayer:
    """One Conv, Gemm or MatMul with stored weights.

    names: what the layer may be called, by its weight and its node. aliases: what its kernel may be called, nearest
    first; own: those that are no other layer's, its node's and its output's. weight: the tensor it reads. stored: type
    of its weights on disk. arithmetic: float type of the graph around it. weights: how many; dims: of the tensor on
    disk. channel_axis: of the output channels in the weight; scale_axis: of its scales, None for a single scale or
    without a DequantizeLinear; block: weights to a scale, 0 without. taken, given: codes before and behind it, None
    where it is float. reader: the first node that reads its result in float.
    """

    names: tuple[str, ...]
    op: str
    aliases: tuple[str, ...]
    own: tuple[str, ...]
    weight: str
    stored: str
    arithmetic: str
    weights: int
    dims: int
    channel_axis: int
    scale_axis: int | None
    block: int
    taken: Codes | None
    given: Codes | None
    reader: str | None


@dataclass(frozen=True)
class Join:
    """A residual Add whose sum becomes codes. live: its inputs; bare: those of them that come in float. additions: per
    image; None: its shape is unknown."""

    name: str
    aliases: tuple[str, ...]
    live: int
    bare: tuple[str, ...]
    additions: int | None


@dataclass(frozen=True)
class EngineFile:
    """All layers and residual Adds, in the order they run."""

    layers: tuple[FileLayer, ...]
    joins: tuple[Join, ...]


def read_file(path: Path) -> EngineFile:
    """What `path` holds. Raises OnnxError when it cannot be read."""
    model = read_onnx(path)
    if any(node.op_type == "Add" for node in model.graph):
        passes.ShapeInferencePass()(model)
    graph, live = model.graph, live_values(model.graph)
    stored = [(node, *constants(node.inputs[1])) for node in graph
              if node.op_type in LAYER_OPS and node.inputs[1] not in live]
    return EngineFile(
        tuple(_layer(node, makers, tensors) for node, makers, tensors in stored if tensors and _is_layer(node)),
        tuple(_join(node) for node in graph if node.op_type == "Add" and _is_join(node, live)))


def matched(names: Sequence[str], layers: Sequence[FileLayer]) -> dict[str, FileLayer]:
    """Layer name -> that layer of the file: by its own name or its weight's, the others in the order they run."""
    left, found = list(layers), dict[str, FileLayer]()
    for name in names:
        own = next((layer for layer in left if name in layer.names), None)
        if own is not None:
            found[name] = own
            left.remove(own)
    unnamed = [name for name in names if name not in found]
    if len(unnamed) == len(left):
        found.update(zip(unnamed, left, strict=True))
    return found


def _is_layer(node: ir.Node) -> bool:
    return constant(node.inputs[0]) is None


def _layer(node: ir.Node, makers: Sequence[ir.Node], tensors: Sequence[ir.Value]) -> FileLayer:
    stored = max(tensors, key=size)
    decode = next((maker for maker in makers if maker.op_type == "DequantizeLinear"), None)
    scales = decode.inputs[1] if decode is not None else None
    return FileLayer(
        names=tuple(dict.fromkeys([layer_name(node), *_by_weight(stored.name or ""), node.name or ""])),
        op=node.op_type, aliases=tuple(dict.fromkeys(aliases(node))), own=own_names(node),
        weight=node.inputs[1].name or "", stored=kind(stored),  # type: ignore[union-attr]
        arithmetic=float_type(node.inputs[1]), weights=size(stored), dims=len(stored.shape or ()),
        channel_axis=channel_axis(node),
        scale_axis=integer(decode, "axis", 1) if scales is not None and size(scales) > 1 else None,
        block=integer(decode, "block_size", 0), taken=codes_before(node.inputs[0]), given=codes_behind(node.outputs[0]),
        reader=float_reader(node.outputs[0]))


def _by_weight(name: str) -> list[str]:
    names = [name]
    for suffix in WEIGHT_SUFFIXES:
        name = name.removesuffix(suffix)
        names.append(name)
    return names


def _is_join(node: ir.Node, live: Collection[ir.Value]) -> bool:
    added = [value for value in node.inputs if value in live]
    return len(added) > 1 and added[0] is not added[1] and codes_behind(node.outputs[0]) is not None


def _join(node: ir.Node) -> Join:
    bare = tuple(value.name or "" for value in node.inputs if value is not None and codes_before(value) is None)
    return Join(node.name or "", own_names(node), len(node.inputs), bare, _elements(node.outputs[0]))


def _elements(value: ir.Value) -> int | None:
    """Elements for one image."""
    sizes = [size for size in (value.shape or [])[1:] if isinstance(size, int)]
    return prod(sizes) if value.shape is not None and len(sizes) == len(value.shape) - 1 else None

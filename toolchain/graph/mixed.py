"""Mixed precision: each layer in its own, in one file.

INT8 layers carry Q/DQ as in a file that is INT8 throughout; INT4 and INT8 weight-only layers store codes and compute in
float. On a target that computes in half the float is FP16 as soon as one layer asks for it (FP16, or weights alone in
integers), and a layer that is to stay FP32 gets casts around it; elsewhere FP16 is how a layer's weight is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from toolchain.errors import OnnxError, nearest
from toolchain.graph.cast import compute_in_half, store_in_half
from toolchain.graph.edit import constant
from toolchain.graph.int4 import quantize_int4
from toolchain.graph.int8_weights import quantize_int8_weights
from toolchain.graph.layers import JOIN_OPS, Layer, layers
from toolchain.graph.qdq import quantize_int8
from toolchain.graph.rules import Rules
from toolchain.ranges import Ranges

IN_HALF = ("fp16", "int4", "int8_weight_only")  # with one of them a target that computes in half does so


def quantize_mixed(
    model: ir.Model, rules: Rules, ranges: Ranges, block: int, assignment: Mapping[str, str], joins: bool = True,
    spared: Collection[str] = (),
) -> dict[str, str]:
    """Give every layer of a clean float `model` the precision that `assignment` names (fp32, fp16, int8,
    int8_weight_only, int4); everything else takes the target's float.

    block: weights per INT4 scale. joins: residual Adds, pools and Concats whose layers are all INT8 carry Q/DQ too, and
    as in the INT8 engine beside layers that are `spared`: kept float by the section of INT8.
    Returns layer name -> what it became: of fewer than 16 weights per output, int4 becomes int8_weight_only. Raises
    OnnxError for a layer without a precision, a name that no layer has, and what the quantizers refuse.
    """
    found = layers(model.graph)
    check_names([layer.name for layer in found], assignment)
    wanted: dict[str, list[Layer]] = {}
    for layer in found:
        wanted.setdefault(assignment[layer.name], []).append(layer)
    names = {precision: {layer.name for layer in some} for precision, some in wanted.items()}
    own = typed(rules, names)
    half = rules.half == "compute" and own.int8_float == "fp16"
    halves = {value for layer in wanted.get("fp16", []) for value in layer.node.inputs[1:] if value is not None}
    done = dict(assignment)
    if "int8" in names:
        between = integer_joins(model.graph, found, {*names["int8"], *spared}, names["int8"]) if joins else []
        quantize_int8(model, own, ranges, "int8", only=names["int8"], between=between)
    if "int8_weight_only" in names:
        quantize_int8_weights(model, own, "int8", names["int8_weight_only"])
    if "int4" in names:
        done |= quantize_int4(model, own, block, "int4", names["int4"])
    if half:
        compute_in_half(model, "fp16", [layer.node for layer in wanted.get("fp32", [])])
    elif halves:
        store_in_half(model, "fp16", halves)
    return done


def check_names(known: Sequence[str], assignment: Mapping[str, str]) -> None:
    """Raise OnnxError for a name in `assignment` that no layer has, or a layer of `known` that has no precision."""
    for name in assignment:
        if name not in known:
            raise OnnxError(f"mixed: found layer '{name}', expected one of {', '.join(known)}{nearest(name, known)}")
    if lacking := [name for name in known if name not in assignment]:
        raise OnnxError(f"mixed: no precision for {', '.join(lacking)}; each layer needs one")


def typed(rules: Rules, precisions: Collection[str]) -> Rules:
    """The target's rules with the float that layers of these precisions leave it: FP16 where one asks for it."""
    if rules.half != "compute":
        return replace(rules, int4_float=rules.int8_float)
    kind = "fp16" if any(each in IN_HALF for each in precisions) else rules.int8_float
    return replace(rules, int8_float=kind, int4_float=kind)


def integer_joins(graph: ir.Graph, found: Sequence[Layer], within: Collection[str], int8: Collection[str]
                  ) -> list[ir.Node]:
    """Nodes whose nearest layers, before and after, are all in `within`: INT8 ones (`int8`), or float all the same.

    An input that an INT8 layer reads too has codes whoever made it. The way to a layer leads past everything but
    another join, which is judged for itself.
    """
    names = {layer.node: layer.name for layer in found}
    coded = {layer.input for layer in found if layer.name in int8}
    return [node for node in graph if node not in names
            and all(name in within for name in _nearest(_readers(node), names, _readers))
            and all(name in within for name in _nearest(_makers(node, coded), names, _makers))]


def _nearest(first: Sequence[ir.Node], names: Mapping[ir.Node, str], beside: Callable[[ir.Node], list[ir.Node]]
             ) -> Iterator[str]:
    """Names of the first layers on every way that leads on from the nodes `first` to those `beside` them."""
    seen, left = set[ir.Node](), [*first]
    while left:
        at = left.pop()
        if at in names:
            yield names[at]
        elif at not in seen and not _is_join(at):
            left += beside(at)
        seen.add(at)


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _makers(node: ir.Node, without: Collection[ir.Value] = ()) -> list[ir.Node]:
    return [maker for value in node.inputs
            if value is not None and value not in without and (maker := value.producer()) is not None]


def _is_join(node: ir.Node) -> bool:
    return node.op_type in JOIN_OPS and sum(constant(value) is None for value in node.inputs) > 1

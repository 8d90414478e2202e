"""Strip what a file does not need to compute: metadata and local paths, dead nodes, stale shapes, copies of constants.

What is left depends only on the network, so equal networks give equal bytes.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.graph.edit import unused_name

PRODUCER = "toolchain"


def clean(model: ir.Model) -> None:
    """Reduce `model` to its computation. Constants become initializers, Identity nodes go, names become unique.

    Recorded shapes of inner values are dropped (passes change types under them; every runtime infers them again).
    """
    for each in (
        passes.InlinePass(), passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(), passes.IdentityEliminationPass(), passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(), passes.NameFixPass(), passes.ClearMetadataAndDocStringPass(),
    ):
        each(model)
    model.producer_name, model.producer_version, model.domain, model.doc_string = PRODUCER, None, None, None
    model.metadata_props.clear()
    model.graph.name = "network"
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    ends = {*model.graph.inputs, *model.graph.outputs}
    for value in [*ends, *model.graph.initializers.values(), *(v for node in model.graph for v in node.outputs)]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            if value not in ends:
                value.shape, value.type = None, None
    passes.RemoveUnusedOpsetsPass()(model)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output depends on (a replaced float weight must not stay in the file)."""
    passes.RemoveUnusedNodesPass()(model)


def rename(model: ir.Model, value: ir.Value, name: str) -> None:
    """Give a graph input or output its new name; whoever had that name gets a free one."""
    if value.name == name:
        return
    for other in [*model.graph.initializers.values(), *(v for node in model.graph for v in node.outputs)]:
        if other.name == name:
            other.name = unused_name(model.graph, name)
    value.name = name

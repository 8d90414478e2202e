"""A network exported for a fixed batch, made to take any: kept only where running it proves it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from toolchain.graph.compare import open_session
from toolchain.graph.edit import add_initializer, constant

NAME = "batch"
TOLERANCE = 1e-4  # of the largest logit: the same arithmetic, perhaps in another order


def free_batch(model: ir.Model) -> ir.Model:
    """A copy of a clean `model` whose first input and output dimension is called "batch".

    Reshape targets that spell out the old batch copy it from their input instead. Not verified: see `batch_is_free`.
    """
    copy = ir.from_proto(ir.to_proto(model))
    graph = copy.graph
    fixed = graph.inputs[0].shape[0] if graph.inputs[0].shape is not None else None
    for value in (graph.inputs[0], graph.outputs[0]):
        if value.shape is not None:
            value.shape = ir.Shape([NAME, *value.shape[1:]])
    for node in list(graph):
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        if target is not None and target.ndim == 1 and target.size > 1 and target[0] == fixed:
            free = np.concatenate([[0], target[1:]]).astype(np.int64)
            node.replace_input_with(1, add_initializer(graph, f"{node.outputs[0].name}_shape", free))
            node.attributes.pop("allowzero", None)
    return copy


def batch_is_free(original: ir.Model, freed: ir.Model) -> bool:
    """Whether `freed` gives at batch 1 and 2 (and at the old batch) what `original` gives for the same images."""
    name = original.graph.inputs[0].name
    fixed, *sizes = (d if isinstance(d, int) else 1 for d in original.graph.inputs[0].shape or ())
    images = np.random.default_rng(0).normal(size=(max(fixed, 2), *sizes)).astype(np.float32)
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % fixed, axis=0)])
    try:
        before, after = (open_session(ir.to_proto(m).SerializeToString()) for m in (original, freed))
        expected = np.concatenate([before.run(None, {name: padded[i : i + fixed]})[0]
                                   for i in range(0, len(padded), fixed)])[: len(images)]
        found = {n: after.run(None, {name: images[:n]})[0] for n in (1, 2, len(images))}
    except Exception:  # whatever onnxruntime says, the batch cannot be freed
        return False
    limit = TOLERANCE * float(np.abs(expected).max())
    return all(logits.shape == expected[:n].shape and np.abs(logits - expected[:n]).max() <= limit
               for n, logits in found.items())

"""How a user's classifier ends. Every stage takes its outputs for logits, and applies softmax where it wants
probabilities (KL, temperatures, the labels on a device): on outputs that are probabilities it would come twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.graph.clean import rename
from toolchain.graph.edit import replace_node

Logits = NDArray[np.float32]
RESHAPES = ("Identity", "Reshape", "Flatten", "Squeeze")  # may stand between the last layer and the output
TOLERANCE = 1e-4
OUTPUT = "logits"

# ending -> what a user is told of it; "logits" and "log_softmax" (whose softmax is the very probabilities) need no word
TOLD = {
    "softmax": f"the final Softmax is cut off: the output is now called '{OUTPUT}' and holds logits. The answers are "
               "the same; where a program reads probabilities, softmax of this output gives them",
    "sigmoid": "ends in Sigmoid, which is kept: the answers are right, but KL and the probabilities of labels take its "
               "outputs for logits, so do not trust those; export it without the Sigmoid to have them right",
    "probabilities": "its outputs are probabilities, but not of a Softmax that could be cut off: the answers are "
                     "right, but KL and the probabilities of labels apply softmax once more, so do not trust those; "
                     "export it with logits as output to have them right",
}


def as_logits(model: ir.Model, expected: Logits, run: Callable[[ir.Model], Logits]) -> tuple[ir.Model, Logits, str]:
    """(the model, what it computes, its ending): without its last Softmax where running it proves that nothing else
    is lost.

    expected: (N, K), what `model` computes for the images that `run` feeds.
    """
    last = last_node(model.graph)
    kind = last.op_type if last is not None else ""
    if kind == "Softmax" and not last.inputs[0].is_graph_input():  # type: ignore[union-attr]
        bare = without_last(model)
        logits = run(bare)
        if np.abs(softmax(logits) - expected).max() <= TOLERANCE:
            return bare, logits, "softmax"
    if kind == "Sigmoid":
        return model, expected, "sigmoid"
    sums_to_one = expected.min() >= 0 and np.abs(expected.sum(axis=1) - 1).max() <= TOLERANCE
    return model, expected, "probabilities" if sums_to_one else "logits"


def last_node(graph: ir.Graph) -> ir.Node | None:
    """The last node that is no mere change of shape."""
    node = graph.outputs[0].producer()
    while node is not None and node.op_type in RESHAPES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def without_last(model: ir.Model) -> ir.Model:
    """A copy of `model` that gives what its last node reads, by another name: who asks for the old one is told so."""
    copy = ir.from_proto(ir.to_proto(model))
    node = last_node(copy.graph)
    assert node is not None and node.inputs[0] is not None
    replace_node(copy.graph, node, node.inputs[0])
    rename(copy, copy.graph.outputs[0], OUTPUT)
    return copy


def softmax(logits: Logits) -> Logits:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

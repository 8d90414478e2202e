"""The form that every later pass expects of a float graph, whoever exported it."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from toolchain.graph.clean import clean
from toolchain.graph.flatten import flatten_to_reshape
from toolchain.graph.fold_batchnorm import fold_batchnorm
from toolchain.graph.global_pool import use_global_average_pool


def prepare(model: ir.Model) -> None:
    """Clean `model`, fold its BatchNormalization into convolutions, write global pooling as pooling
    and flattening as reshaping."""
    clean(model)
    fold_batchnorm(model)
    passes.ShapeInferencePass()(model)
    use_global_average_pool(model)
    flatten_to_reshape(model)
    clean(model)

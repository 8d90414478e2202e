"""NaN and infinity in a float network: found where they start, and named, before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from toolchain.errors import OnnxError
from toolchain.graph.layers import LAYER_OPS, layer_name

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def check_weights(model: ir.Model, path: Path) -> None:
    """Raise OnnxError naming a stored tensor that holds NaN, or a layer's weight or bias that is infinite.

    Infinity elsewhere has its uses (a Clip without an upper end, a mask).
    """
    for value in model.graph.initializers.values():
        if value.const_value is None or value.dtype not in FLOATS:
            continue
        array = value.const_value.numpy()
        of = next((layer_name(use.node) for use in value.uses() if use.node.op_type in LAYER_OPS), None)
        if np.isnan(array).any() or of is not None and not np.isfinite(array).all():
            where = f"layer {of}: weight" if of is not None else "tensor"
            raise OnnxError(f"{path}: {where} '{value.name}' holds NaN or infinity; expected finite values; train "
                            "again with a lower learning rate")


def first_not_finite(model: ir.Model, images: np.ndarray) -> str | None:
    """Name of the layer or node whose result is the first with NaN or infinity for `images` (n, 3, S, S), or None."""
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    made = {out.name: node for node in model.graph for out in node.outputs if out.name}
    proto.graph.output.extend(type(proto.graph.output[0])(name=name) for name in made if name not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    found = dict(zip([out.name for out in session.get_outputs()],
                     session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    for name, node in made.items():
        values = found[name]
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
            return layer_name(node)
    return None

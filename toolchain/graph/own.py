"""A user's own ONNX network: verified, upgraded, cleaned, and written elsewhere. The file given is only read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import optimizer, version_converter

from toolchain.errors import OnnxError
from toolchain.graph.compare import gap, open_session, run
from toolchain.graph.dynamic_batch import NAME, batch_is_free, free_batch
from toolchain.graph.ending import as_logits
from toolchain.graph.finite import check_weights, first_not_finite
from toolchain.graph.onnx_file import check_onnx, read_onnx, write_onnx
from toolchain.graph.prepare import prepare

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
             "ConvInteger", "MatMulInteger", "MatMulNBits", "QGemm", "QLinearAdd")
NEWEST_OPSET = 25
RUNTIME_IR = 10  # the file format that goes with opset 21; runtimes refuse formats newer than they are
TOLERANCE = 1e-3  # of the largest logit, between the file given and the file written


def read_own_onnx(path: Path, out_path: Path, opset: int = 21, image_size: int | None = None) -> dict[str, Any]:
    """Verify `path`, bring it to `opset` and the form our passes expect, write `out_path`.

    image_size: fixes the height and width of a file that leaves them open.
    Returns {"input_name", "output_name", "image_size", "num_classes", "batch": "dynamic" | int, "opset": as found,
    "ending": "logits", or a key of graph/ending.py's TOLD}; a final Softmax is cut off.
    Raises OnnxError for a file that is missing, damaged, already quantized, uses an operator that ONNX or ONNX Runtime
    does not have, or is not one image input (N, 3, S, S) float32 -> one output (N, K).
    """
    if out_path.resolve() == path.resolve():
        raise OnnxError(f"{path}: would be overwritten; your file is only read, so write the result elsewhere")
    model = read_onnx(path)
    model.ir_version = min(model.ir_version, RUNTIME_IR)  # what a newer file format adds is no part of a float network
    _refuse_unknown(model, path)
    check_onnx(ir.to_proto(model), path)
    check_weights(model, path)
    found_opset = model.opset_imports.get("", 0)
    size = _check_input(model, path, image_size)
    images, expected = _reference(model, size, path)
    model, expected, ending = as_logits(model, expected, lambda bare: _reference(bare, size, path)[1])
    _upgrade(model, opset, path)
    optimizer.fold_constants(model)  # exports without optimisation compute their BatchNorm parameters in the graph
    prepare(model)
    model, batch = _settle_batch(model)
    model.graph.outputs[0].shape = ir.Shape([batch if batch != "dynamic" else NAME, expected.shape[1]])
    partial = out_path.with_name(out_path.name + ".unverified")
    try:
        write_onnx(model, partial)
        _compare(partial, images, expected, path)
        partial.replace(out_path)
    finally:
        partial.unlink(missing_ok=True)
    return {"input_name": model.graph.inputs[0].name, "output_name": model.graph.outputs[0].name, "image_size": size,
            "num_classes": expected.shape[1], "batch": batch, "opset": found_opset, "ending": ending}


def _refuse_unknown(model: ir.Model, path: Path) -> None:
    """Quantized operators, operators of another domain, and names that are no ONNX operator, each by name."""
    version = model.opset_imports.get("", 0)
    if version > NEWEST_OPSET:
        raise OnnxError(f"{path}: opset {version}; expected at most {NEWEST_OPSET}; export it with an older opset")
    own = {(function.domain, function.name) for function in model.functions.values()}
    for node in model.graph.all_nodes():
        where = f"operator '{node.op_type}' (node '{node.name or node.outputs[0].name}')"
        if node.op_type in QUANTIZED:
            raise OnnxError(f"{path}: is already quantized: {where}; expected a float network; give the file it was "
                            "made from")
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in ("", "ai.onnx"):
            raise OnnxError(f"{path}: unsupported {where} of domain '{node.domain}'; expected standard ONNX operators; "
                            "export without custom operators")
        try:
            onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError:
            raise OnnxError(f"{path}: unsupported {where}: ONNX opset {version} has no such operator") from None


def _check_input(model: ir.Model, path: Path, image_size: int | None) -> int:
    """Height = width of the one image input; an open size is set to `image_size`."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        raise OnnxError(f"{path}: {len(inputs)} inputs ({names}); expected one, the images")
    entry = inputs[0]
    shape = [d if isinstance(d, int) else None for d in entry.shape] if entry.shape is not None else []
    shown = "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"
    if entry.dtype != ir.DataType.FLOAT:
        raise OnnxError(f"{path}: input '{entry.name}' is {entry.dtype}; expected float32 images; export in float32")
    if len(shape) == 4 and shape[3] == 3 and shape[1] != 3:
        raise OnnxError(f"{path}: input '{entry.name}' is {shown}, channels last; expected (N, 3, S, S); "
                        "export it as NCHW")
    if len(shape) != 4 or shape[1] not in (3, None):
        raise OnnxError(f"{path}: input '{entry.name}' is {shown or 'without a shape'}; expected images (N, 3, S, S)")
    height, width = (image_size if d is None else d for d in shape[2:])
    if height is None or width is None:
        raise OnnxError(f"{path}: input '{entry.name}' is {shown}, its size is open; expected a fixed (N, 3, S, S); "
                        "set data.image_size, or export with a fixed size")
    if height != width:
        raise OnnxError(f"{path}: input '{entry.name}' is {shown}; expected square images; export for (N, 3, S, S)")
    entry.shape = ir.Shape([entry.shape[0], 3, height, width])  # type: ignore[index]
    return height


def _reference(model: ir.Model, size: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, and the logits (N, K) that the file as given computes for them."""
    if len(model.graph.outputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in model.graph.outputs)
        raise OnnxError(f"{path}: {len(model.graph.outputs)} outputs ({names}); expected one, logits (N, K)")
    entry = next(value for value in model.graph.inputs if not value.is_initializer())
    batch = entry.shape[0] if entry.shape is not None and isinstance(entry.shape[0], int) else 2
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    try:
        session = open_session(ir.to_proto(model).SerializeToString())
    except OnnxError as wrong:
        raise OnnxError(f"{path}: opset {model.opset_imports.get('', 0)}: {str(wrong).removeprefix('this network: ')}; "
                        "export it with opset 13 or newer") from None
    try:
        logits = session.run(None, {entry.name: images})[0]
    except Exception as wrong:  # onnxruntime's exceptions share no base class
        raise OnnxError(f"{path}: fails on {images.shape} images: {str(wrong).splitlines()[0][:200]}") from None
    if logits.ndim != 2 or len(logits) != batch or logits.dtype != np.float32:
        raise OnnxError(f"{path}: gives {logits.dtype} {logits.shape} for {batch} images; expected float32 "
                        f"logits ({batch}, K)")
    if not np.isfinite(logits).all():
        raise OnnxError(f"{path}: layer {first_not_finite(model, images)} produces NaN or infinity for images of "
                        "N(0, 1); expected finite values; train again with a lower learning rate")
    return images, logits


def _upgrade(model: ir.Model, opset: int, path: Path) -> None:
    """Convert to `opset` in place; a file that is already newer stays as it is."""
    found = model.opset_imports.get("", 0)
    if found >= opset:
        return
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells which of two converters it uses; nobody asked
    try:
        version_converter.convert_version(model, opset, fallback=True)
    except Exception as wrong:  # the converter raises whatever its per-operator adapters raise
        raise OnnxError(f"{path}: opset {found} cannot be upgraded to {opset}: {str(wrong).splitlines()[0][:200]}; "
                        f"export it with opset {opset}") from None
    finally:
        logger.setLevel(level)
    if model.opset_imports.get("", 0) < opset:
        raise OnnxError(f"{path}: opset {found} cannot be upgraded to {opset}; export it with opset {opset}")


def _settle_batch(model: ir.Model) -> tuple[ir.Model, int | str]:
    """The model with an open batch where that is proven to work, and its batch: "dynamic" or a number."""
    shape = model.graph.inputs[0].shape
    fixed = shape[0] if shape is not None else None
    if not isinstance(fixed, int):
        return model, "dynamic"
    freed = free_batch(model)
    prepare(freed)
    return (freed, "dynamic") if batch_is_free(model, freed) else (model, fixed)


def _compare(written: Path, images: np.ndarray, expected: np.ndarray, path: Path) -> None:
    found = gap(expected, run(written, images), path)
    if found["relative"] > TOLERANCE:
        raise OnnxError(f"{path}: after upgrading, logits differ by {found['relative']:.2g} of the largest (limit "
                        f"{TOLERANCE:g}); export it with opset 21 or newer")

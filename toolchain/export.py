"""PyTorch -> one clean float ONNX file, compared with PyTorch before anyone builds on it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from toolchain.errors import OnnxError
from toolchain.graph.clean import rename
from toolchain.graph.compare import gap, run
from toolchain.graph.onnx_file import write_onnx
from toolchain.graph.prepare import prepare
from toolchain.recipe.schema import Export

INPUT, OUTPUT = "images", "logits"
EXAMPLE_BATCH = 2  # torch.export takes a batch of 1 for a constant more readily than any other
COMPARED_BATCHES = (1, 3)


def export_onnx(model: nn.Module, path: Path, cfg: Export, image_size: int, classes: int) -> dict[str, float]:
    """Write `model` (eval semantics, BatchNorm folded) to `path`: images (N, 3, S, S) float32 -> logits (N, K).

    Returns {"max_abs_diff", "relative_diff"}: the largest difference of logits to PyTorch at batch 1 and 3, and that
    relative to the largest logit. Raises OnnxError, with no file left, when the export fails, the logits are not
    (N, classes), or the difference is above cfg.tolerance. The model's train/eval mode is as it was afterwards.
    """
    with _evaluating(model):
        graph = _export(model, cfg.opset, image_size)
        prepare(graph)
        partial = path.with_name(path.name + ".unverified")
        try:
            write_onnx(graph, partial)
            found = _compare(model, partial, image_size, classes)
            if found["relative_diff"] > cfg.tolerance:
                raise OnnxError(f"{path}: logits differ from PyTorch by {found['relative_diff']:.2g} of the largest "
                                f"(export.tolerance {cfg.tolerance:g}); an operator was exported wrongly")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return found


def _export(model: nn.Module, opset: int, image_size: int) -> ir.Model:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    example = torch.zeros(EXAMPLE_BATCH, 3, image_size, image_size, device=device)
    try:
        with _quiet():
            program = torch.onnx.export(
                model, (example,), dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False)
    except Exception as failed:  # the exporter wraps anything that the model itself may raise
        raise OnnxError(f"{type(model).__name__}: PyTorch cannot export it to ONNX: {_reason(failed)}; "
                        "remove control flow that depends on values, or operators without an ONNX form") from None
    assert program is not None
    exported = program.model
    if len(exported.graph.inputs) != 1 or len(exported.graph.outputs) != 1:
        raise OnnxError(f"{type(model).__name__}: exports {len(exported.graph.inputs)} inputs and "
                        f"{len(exported.graph.outputs)} outputs; expected one of each (images -> logits)")
    rename(exported, exported.graph.inputs[0], INPUT)
    rename(exported, exported.graph.outputs[0], OUTPUT)
    return exported


def _compare(model: nn.Module, path: Path, image_size: int, classes: int) -> dict[str, float]:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    worst = {"max_abs_diff": 0.0, "relative_diff": 0.0}
    for batch in COMPARED_BATCHES:
        images = np.random.default_rng(batch).normal(size=(batch, 3, image_size, image_size)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).to(device)).float().cpu().numpy()
        if expected.shape != (batch, classes):
            raise OnnxError(f"{type(model).__name__}: gives {expected.shape} for {batch} images; expected logits "
                            f"({batch}, {classes}), one per class of the data")
        found = gap(expected, run(path, images), path)
        worst["max_abs_diff"] = max(worst["max_abs_diff"], found["max_abs"])
        worst["relative_diff"] = max(worst["relative_diff"], found["relative"])
    return worst


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the exporter prints, warns and logs; its errors still come out as exceptions."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The first telling line of the innermost cause; the exporter's own message is pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

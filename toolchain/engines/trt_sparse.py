"""2:4 sparse weights on TensorRT: whether a file has them, and what the builder made of them."""

from __future__ import annotations

from pathlib import Path

from toolchain import console
from toolchain.errors import OnnxError


def sparse_in(onnx_path: Path) -> dict[str, int | None] | None:
    """{"layers", "in_file"}: how many layers with weights the file has, and are 2:4; None where none of them is.

    None, too, where the file cannot be read (the builder says why) or the onnx package is absent (a device): such a
    build is right, and dense.
    """
    try:
        from toolchain.graph.sparse import sparse_layers

        found, layers = sparse_layers(onnx_path)
    except (ImportError, OnnxError):
        return None
    return {"layers": layers, "in_file": found} if found else None


def with_tactics(sparse: dict[str, int | None] | None, told: dict[str, int | None]) -> dict[str, int | None] | None:
    """EngineRecord.sparse, which is also logged: what is in the file, and what the builder told of it."""
    if sparse is None:
        return None
    choice = "TensorRT does not tell how many run sparse"
    if told["eligible"] is not None or told["chosen"] is not None:
        choice = f"TensorRT found {told['eligible'] or 0} eligible and runs {told['chosen'] or 0} sparse"
    console.log(f"  2:4 sparse in the file: {sparse['in_file']} of {sparse['layers']} layers; {choice}")
    return {**sparse, **told}

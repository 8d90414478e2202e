"""How many bytes a file's weights take, read from the file itself."""

from __future__ import annotations

from pathlib import Path

from toolchain.graph.onnx_file import read_onnx


def weight_bytes(onnx_path: Path) -> int:
    """Bytes of all initializers as stored: codes, scales, zero points, biases; INT4 takes half a byte per weight.

    Raises OnnxError when the file cannot be read.
    """
    initializers = read_onnx(onnx_path).graph.initializers.values()
    return sum(value.const_value.nbytes for value in initializers if value.const_value is not None)

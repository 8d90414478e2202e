"""OpenVINO: the execution graph names the precision of each layer, and the ONNX nodes that were fused into it.

Seen live: the CPU plugin of 2026.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolchain.contract.engine_file import FileLayer, Join
from toolchain.contract.ran import Ran, assigned
from toolchain.engines.record import EngineRecord

KERNELS = ("Convolution", "FullyConnected", "MatMul")
TYPES = {"u8": "int8", "i8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}


def read(record: EngineRecord, layers: Mapping[str, FileLayer], joins: Mapping[str, Join], folder: Path
         ) -> dict[str, Ran]:
    """What each of `layers` is compiled as. joins: left out, they run inside other kernels."""
    kernels = [([str(kernel["name"]), *kernel.get("origin", ())], kernel) for kernel in record.layers
               if kernel["op"] in KERNELS]
    found = assigned(kernels, layers)
    unknown = Ran(None, "no layer of the execution graph bears its name")
    return {name: _ran(found[name], layer) if name in found else unknown for name, layer in layers.items()}


def _ran(kernel: Mapping[str, object], layer: FileLayer) -> Ran:
    """Of a linear layer with integer weights the graph tells the weights' type, and of one with Q/DQ its input's."""
    dtype = str(kernel["dtype"])
    why = f"OpenVINO runs it as {kernel['op']} in {dtype}"
    if dtype in ("i8", "i4") and layer.taken is None and layer.stored in ("int8", "int4"):
        return Ran(layer.arithmetic, why)
    return Ran(TYPES.get(dtype, dtype), why)

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
    return {name: _ran(found[name]) if name in found else Ran(None, "no layer of the execution graph bears its name")
            for name in layers}


def _ran(kernel: Mapping[str, object]) -> Ran:
    dtype = str(kernel["dtype"])
    return Ran(TYPES.get(dtype, dtype), f"OpenVINO runs it as {kernel['op']} in {dtype}")

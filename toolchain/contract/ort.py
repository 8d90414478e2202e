"""ONNX Runtime: the profile of one run, which engine.json holds, names each kernel that really ran.

Integer convolutions and products have operators of their own (QLinearConv, QGemm, …); every other kernel computes in
the type of its output. Seen live: the CPU provider of 1.31. Not seen live: the CUDA provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.contract.engine_file import FileLayer, Join
from toolchain.contract.ran import Ran, assigned
from toolchain.engines.record import EngineRecord

INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
           "DynamicQuantizeMatMul", "QLinearAdd")
KERNELS = (*INTEGER[:-1], "Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "Gemm", "FusedGemm", "MatMul",
           "FusedMatMul", "MatMulNBits")
ADDS = ("Add", "QLinearAdd")
FLOATS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}


def read(record: EngineRecord, layers: Mapping[str, FileLayer], joins: Mapping[str, Join], folder: Path
         ) -> dict[str, Ran]:
    """What each of `layers` and `joins` ran as. An Add that has no kernel of its own is left out."""
    if not record.layers:
        return dict.fromkeys(layers, Ran(None, "it was never run here, so there is no profile of it"))
    found = _found(record, KERNELS, layers)
    told = {name: _ran(found[name]) if name in found else Ran(None, "no kernel of the profile bears its name")
            for name in layers}
    return told | {name: _ran(kernel) for name, kernel in _found(record, ADDS, joins).items()}


def _found(record: EngineRecord, ops: Sequence[str], layers: Mapping[str, FileLayer | Join]
           ) -> dict[str, Mapping[str, object]]:
    return assigned([([str(kernel["name"])], kernel) for kernel in record.layers if kernel["op"] in ops], layers)


def _ran(kernel: Mapping[str, object]) -> Ran:
    op, dtype = str(kernel["op"]), str(kernel["dtype"])
    return Ran("int8" if op in INTEGER else FLOATS.get(dtype, dtype), f"ONNX Runtime runs it as {op}")

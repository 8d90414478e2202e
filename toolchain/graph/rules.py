"""What each target wants of a graph, as data. A new target is a new row.

Sources: TensorRT's developer guide (explicit quantization); ONNX Runtime's QDQ selectors, measured on x86 with VNNI;
for ARM, read and not measured, what its pull requests 8695, 9902 and 9961 say of kernels and fusions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Float = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Rules:
    """One target's wishes.

    activations: "s8": INT8 codes -128…127 around zero_point 0. "u8": UINT8, zero_point 0 for a tensor that is never
        negative (its negative half would be wasted, and ONNX Runtime can then drop the ReLU), else 128; on the scale of
        "s8", but where training clipped one that is never negative (qdq.code_grid).
        "s8_shifted": the codes of "u8" less 128, as INT8. "e4m3": FP8, which graph/fp8.py alone asks for.
    adds: which inputs of a residual Add carry Q/DQ: "both", or "residual": all but the branch whose last layer the
        runtime fuses with the Add.
    quantized_inputs: further ops whose inputs carry Q/DQ (pools, Concat).
    half: "compute": fp16/bf16 weights and activations with FP32 graph inputs and outputs. "storage": weights stored in
        half and cast to FP32, for a CPU that has no half kernels.
    int8_float, int4_float: type of everything that is not quantized, and of the scales; int4_float is that of every
        engine whose weights alone are integers.
    fp8_float: the same beside FP8; None: the target has no FP8.
    decode: how stored integer weights that no fused kernel reads become float: "dequantize" (DequantizeLinear) or
        "cast" (Cast and Mul, which ONNX Runtime computes once when it loads the file, not at every run).
    bias_after_gemm: a Gemm whose result stays float gets its bias from an Add: ONNX Runtime has an integer kernel for
        the Gemm alone, and with a float bias inside it would compute in float.
    integer_results: a Conv or Add computes in integers only where its result is quantized too, so that of an INT8 one
        is even before a float layer.
    lean: the file leaves out what the runtime knows without: a second record of each stored tensor's type and shape,
        and the zero_point, a byte a channel that is 0, of a convolution's INT8 weight. A linear layer keeps its own:
        without it ONNX Runtime computes a Gemm in float. TensorRT's engines would be other bytes.
    """

    activations: Literal["s8", "u8", "s8_shifted", "e4m3"]
    adds: Literal["both", "residual"]
    quantized_inputs: tuple[str, ...]
    half: Literal["compute", "storage"]
    int8_float: Float = "fp32"
    int4_float: Float = "fp32"
    fp8_float: Float | None = None
    decode: Literal["dequantize", "cast"] = "dequantize"
    bias_after_gemm: bool = False
    integer_results: bool = False
    lean: bool = False


# MaxPool needs none: it keeps order, so runtimes move the Q that follows it to its other side
CPU_OPS = ("GlobalAveragePool", "AveragePool", "Concat")

RULES: dict[str, Rules] = {
    "cpu_x86": Rules("u8", "both", CPU_OPS, "storage", decode="cast", bias_after_gemm=True, integer_results=True,
                     lean=True),
    # signed by signed bytes have kernels of their own there; unsigned ones are flipped to signed, or widened, first
    "cpu_arm": Rules("s8_shifted", "both", CPU_OPS, "storage", decode="cast", bias_after_gemm=True,
                     integer_results=True, lean=True),
    "tensorrt": Rules("s8", "residual", (), "compute", int4_float="fp16", fp8_float="fp16"),
    # Turing has no FP32 matrix kernels in TensorRT-RTX, so what is not INT8 is FP16
    "tensorrt_sm75": Rules("s8", "residual", (), "compute", int8_float="fp16", int4_float="fp16"),
    "openvino": Rules("u8", "both", CPU_OPS, "storage", lean=True),
}

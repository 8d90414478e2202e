"""What an engine's layers may be: the names that recipes, files and reports share."""

from __future__ import annotations

from typing import Literal

# fp8: E4M3, weights and activations. int8: weights and activations. int8_weight_only, int4: weights alone.
# mixed: a precision for each layer, as quantize.mixed chooses.
Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int8_weight_only", "int4", "mixed"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "fp8", "int8", "int8_weight_only", "int4", "mixed")
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int4")  # without an `engines` section

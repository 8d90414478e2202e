"""Which precision TensorRT for RTX builds for which SM: a table, so that a refusal comes before the build.

Seen with TensorRT-RTX 1.7 on strongly typed ONNX files; SM75 is Turing (T4), 80 A100, 86 A10 and RTX 30, 89 L4 and
RTX 40, 120 RTX 50, 121 GB10. The Jetsons (SM87) and H100 (SM90) are not among its targets: use runtime tensorrt there.
"""

from __future__ import annotations

from toolchain.errors import EngineError
from toolchain.recipe.schema import RTX_SMS

AMPERE_ON = tuple(sm for sm in RTX_SMS if sm >= 80)
ADA_ON = tuple(sm for sm in RTX_SMS if sm >= 89)
SUPPORT: dict[str, tuple[int, ...]] = {
    "fp32": AMPERE_ON,
    "fp16": RTX_SMS,
    "bf16": AMPERE_ON,
    "fp8": ADA_ON,
    "int8": RTX_SMS,
    "int8_weight_only": RTX_SMS,
    "int4": AMPERE_ON,
    "mixed": AMPERE_ON,  # what both int8 and int4 build for
}
WHY_NOT = {
    ("fp32", 75): "FP32 matrix multiplication cannot be compiled for Turing",
    ("bf16", 75): "Turing has no bf16",
    ("int4", 75): "Turing has no int4",
    ("mixed", 75): "Turing has no int4",
    ("fp8", 75): "Turing has no fp8",
    ("fp8", 80): "Ampere has no fp8",
    ("fp8", 86): "Ampere has no fp8",
}
# Turing takes INT8 only on an FP16 graph, so it is not in the default list, which keeps the other layers in FP32.
DEFAULT = {**SUPPORT, "int8": AMPERE_ON}


def sms_of(target: str) -> list[int]:
    """"sm86+sm89" -> [86, 89]."""
    return [int(part.removeprefix("sm")) for part in target.split("+")]


def target_of(sms: tuple[int, ...]) -> str:
    """(86, 89) -> "sm86+sm89"."""
    return "+".join(f"sm{sm}" for sm in sms)


def refuse_unsupported(precision: str, target: str) -> None:
    """Raise EngineError naming every SM of `target` for which `precision` cannot be built."""
    wrong = [sm for sm in sms_of(target) if sm not in SUPPORT[precision]]
    if wrong:
        reasons = "; ".join(f"sm{sm}: {WHY_NOT.get((precision, sm), 'not a target of TensorRT-RTX')}" for sm in wrong)
        raise EngineError(f"engines: tensorrt_rtx: found {precision} for {target_of(tuple(wrong))} ({reasons}), "
                          f"expected {', '.join(f'sm{sm}' for sm in SUPPORT[precision])}; "
                          f"for {'Turing use fp16 or' if 75 in wrong else 'Ampere use'} int8")

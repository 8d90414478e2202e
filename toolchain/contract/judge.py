"""One layer's verdict: what was asked of it, what its file holds, and what the runtime says it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.contract.engine_file import FileLayer, Join
from toolchain.contract.ran import Ran
from toolchain.engines.record import EngineRecord

Verdict = Literal["kept", "broken", "undecidable"]
FLOATS = ("fp32", "fp16", "bf16")
CODED = ("int8", "fp8")  # weights and activations; other integer precisions are weights alone
STORED = {"int8_weight_only": "int8"}  # a precision's weights on disk, where they are not called as the precision is


@dataclass(frozen=True)
class Judged:
    """A layer of contract.json. realised: what it is, in the words of `asked`; None: it cannot be told.

    arithmetic: what its multiply-adds run in, where that is told. It differs from `realised` in forms of storage:
    weight-only integers, and FP16 and BF16 where the runtime has no kernels for them. macs: multiply-adds per image; of
    an Add, its additions. None: unknown.
    """

    name: str
    op: str
    asked: str
    realised: str | None
    macs: int | None
    verdict: Verdict
    why: str
    arithmetic: str | None = None


def judge(name: str, op: str, asked: str, macs: int | None, layer: FileLayer | None, ran: Ran, record: EngineRecord,
          wrong: str | None = None) -> Judged:
    """The verdict on one layer. layer: as the file holds it, None: not found there. wrong: what its weights are."""
    if layer is None:
        return Judged(name, op, asked, None, macs, "undecidable", "no layer of the engine's ONNX file bears its name")
    faults = [*file_faults(asked, layer, record.runtime), *([wrong] if wrong else [])]
    found = realised(layer, ran)
    if faults:
        return Judged(name, op, asked, found, macs, "broken", "; ".join(faults), ran.arithmetic)
    if ran.arithmetic is None:
        return Judged(name, op, asked, None, macs, "undecidable", ran.why)
    wanted = arithmetic(asked, layer, record)
    if ran.arithmetic != wanted:
        why = f"{ran.why}, not in {wanted}{cause(asked, layer, record)}"
        return Judged(name, op, asked, found, macs, "broken", why, ran.arithmetic)
    return Judged(name, op, asked, asked, macs, "kept", "", ran.arithmetic)


def arithmetic(asked: str, layer: FileLayer, record: EngineRecord) -> str:
    """What the layer's multiply-adds should run in.

    A float layer whose graph is in its own type is meant to compute in it; one that is merely stored so computes in
    what the runtime said of the engine. Weight-only integers are multiplied in the float type around them.
    """
    if asked in CODED:
        return asked
    if asked in FLOATS and asked != layer.arithmetic and record.precision == asked:
        return record.compute
    return layer.arithmetic


def file_faults(asked: str, layer: FileLayer, runtime: str) -> list[str]:
    """What is wrong in the file already, whatever the runtime makes of it."""
    faults = []
    wanted = STORED.get(asked, asked)
    if layer.stored != wanted and layer.weights > 1:
        faults.append(f"its weights lie as {layer.stored} in the file, not as {wanted}")
    if asked in CODED and layer.taken is None:
        faults.append("its input has no QuantizeLinear and DequantizeLinear")
    if asked not in FLOATS and layer.scale_axis is not None:
        if layer.block and runtime.startswith("tensorrt") and layer.scale_axis < layer.dims - 2:
            faults.append(f"its weight has {layer.dims} axes and blocks along axis {layer.scale_axis}; "
                          "TensorRT takes blocks along the last two alone")
        elif not layer.block and layer.scale_axis % layer.dims != layer.channel_axis:
            faults.append(f"the scales of its weights lie along axis {layer.scale_axis}, its output channels along "
                          f"axis {layer.channel_axis}")
    if runtime.startswith("tensorrt") and asked == "int8" and layer.taken is not None:
        if layer.taken.kind == "uint8":
            faults.append("its input has unsigned codes (uint8), which TensorRT lacks: 128 to 255 would saturate")
        elif layer.taken.zero_point:
            faults.append(f"its input has zero_point {layer.taken.zero_point:.0f}; TensorRT takes 0 alone")
    return faults


def realised(layer: FileLayer, ran: Ran) -> str | None:
    """What it is, in the words that recipes use for precisions; integer weights alone are a form of storage."""
    if ran.arithmetic is None or ran.arithmetic in CODED:
        return ran.arithmetic
    weights_alone = {"int8": "int8_weight_only", "int4": "int4", "fp8": "fp8_weight_only"}.get(layer.stored)
    return weights_alone or ran.arithmetic


def cause(asked: str, layer: FileLayer, record: EngineRecord) -> str:
    """Why a runtime took a float kernel where integers were asked for, as far as the file shows it."""
    if asked != "int8":
        return ""
    given = layer.given
    if record.runtime == "onnxruntime" and "x86" in record.target:
        signed = [where for where, codes in (("input", layer.taken), ("result", given))
                  if codes is not None and codes.kind == "int8" and codes.zero_point == 0]
        if signed:
            return (f": the codes of its {' and '.join(signed)} are signed around zero_point 0, with which ONNX "
                    "Runtime cannot drop a ReLU; it wants uint8 here")
    if layer.reader:
        return f": its result goes in float to {layer.reader}, with no QuantizeLinear between"
    return ""


def judge_join(join: Join, ran: Ran | None, runtime: str) -> Judged | None:
    """The verdict on a residual Add of an INT8 engine, when it is broken; None otherwise.

    TensorRT adds the trunk inside the kernel of its last layer, in float, so one bare input is right there.
    """
    may_be_bare = 1 if runtime.startswith("tensorrt") else 0
    if len(join.bare) > may_be_bare:
        tensors = " and ".join(f"'{name}'" for name in join.bare)
        found = ran.arithmetic if ran else None
        return Judged(join.name, "Add", "int8", found, join.additions, "broken",
                      f"the residual Add reads {tensors} in float: no QuantizeLinear and DequantizeLinear there", found)
    if ran is not None and ran.arithmetic != "int8":
        return Judged(join.name, "Add", "int8", ran.arithmetic, join.additions, "broken", f"{ran.why}, not in int8",
                      ran.arithmetic)
    return None

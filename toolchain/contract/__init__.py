"""The realised-precision contract: what was asked of each layer against what the built engine runs.

Layers that broke it are named with the reason; what the runtime hides is undecidable, which is not the same as kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolchain.contract import openvino, ort, tensorrt
from toolchain.contract.engine_file import matched, read_file
from toolchain.contract.judge import Judged, judge, judge_join
from toolchain.contract.ran import Ran
from toolchain.contract.weights import wrong_weights
from toolchain.engines.record import EngineRecord, read_record

READERS = {"onnxruntime": ort.read, "openvino": openvino.read, "tensorrt_rtx": tensorrt.read, "tensorrt": tensorrt.read}


def contract(
    engine: Path, onnx: Path, asked: Sequence[Mapping[str, Any]], source: Path | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What contract.json holds of the engine in folder `engine`, as `summed` says.

    onnx: the file it was built from. asked: [{"name", "op", "precision", "macs"}] of that file's info.json. source:
    the float file that `onnx` was converted from, to compare stored weights with. numbers: of `compared`.
    Raises EngineError or OnnxError when a file cannot be read.
    """
    record, file = read_record(engine), read_file(onnx)
    held = matched([str(layer["name"]) for layer in asked], file.layers)
    joins = {join.name: join for join in file.joins} if record.precision == "int8" else {}
    ran = READERS[record.runtime](record, held, joins, engine)
    wrong = wrong_weights(source, onnx, {str(layer["name"]): str(layer["precision"]) for layer in asked}, held
                          ) if source else {}
    judged = [judge(name, str(layer["op"]), str(layer["precision"]), layer["macs"], held.get(name),
                    ran.get(name, Ran(None)), record, wrong.get(name))
              for layer in asked for name in [str(layer["name"])]]
    added = [judge_join(join, ran.get(name), record.runtime) for name, join in joins.items()]
    return summed(record, [*judged, *(one for one in added if one)], numbers)


def summed(record: EngineRecord, layers: Sequence[Judged], numbers: Mapping[str, Any] | None) -> dict[str, Any]:
    """contract.json: {"engine", "precision", "layers", "share", "arithmetic", "kept_share", "undecidable_share",
    "reasons", "numbers"}.

    Shares are of multiply-adds, 0 to 1, with the additions of broken residual Adds; where no layer's are known, each
    counts alike. share: by realised precision, which may be a form of storage; arithmetic: by what they are computed
    in; both without what cannot be told. reasons: each reason once, with how many layers it holds for.
    """
    weigh = [layer.macs or 0 for layer in layers]
    if not any(layer.macs for layer in layers if layer.op != "Add"):
        weigh = [1 for _ in layers]
    whole = sum(weigh) or 1

    def share(of: Sequence[bool]) -> float:
        return sum(weight for weight, counted in zip(weigh, of, strict=True) if counted) / whole

    def shares(kinds: Sequence[str | None]) -> dict[str, float]:
        found = {kind: round(share([one == kind for one in kinds]), 6) for kind in dict.fromkeys(kinds) if kind}
        return {kind: part for kind, part in found.items() if part}

    reasons: dict[str, int] = {}
    for layer in layers:
        if layer.why:
            reasons[layer.why] = reasons.get(layer.why, 0) + 1
    return {
        "engine": record.name, "precision": record.precision, "layers": [asdict(layer) for layer in layers],
        "share": shares([layer.realised for layer in layers]),
        "arithmetic": shares([layer.arithmetic for layer in layers]),
        "kept_share": round(share([layer.verdict == "kept" for layer in layers]), 6),
        "undecidable_share": round(share([layer.verdict == "undecidable" for layer in layers]), 6),
        "reasons": reasons, "numbers": dict(numbers) if numbers else None,
    }

"""Does the engine compute what its file says? Its logits beside those of the file run node by node, and of the source.

An engine that runs every layer as asked may still be wrong: ONNX Runtime's optimizer once made 0.4 % top-1 of a sound
FP16 file with Q/DQ. Distances are |one - other| / |other| (L2, over all logits of the probe images).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolchain.contract.judge import Verdict
from toolchain.engines import load_engine
from toolchain.engines.record import read_record
from toolchain.graph.compare import run

# What a runtime's own arithmetic adds to the numbers of an engine's file. int8, fp8: a sum on a rounding edge falls to
# either side, and the network carries that on as it carries the rounding itself; so twice that is allowed too, where it
# is more, up to TELLING. Weight-only integers are multiplied in the engine's float type, whose limit is theirs too.
LARGEST_TO_FILE = {"fp32": 0.01, "fp16": 0.05, "bf16": 0.1, "fp8": 0.3, "int8": 0.1, "mixed": 0.1}
ROUNDED = ("int8", "fp8", "mixed")
TELLING = 0.3  # a file's own rounding; beyond it nothing is called kept: so far off, a fault looks like rounding
NOTHING = 1.0  # as far away as a network that answers nothing: all its logits are 0
COARSE = ("int4", "mixed")  # four bits may do that to a network, an untrained one say, with nothing broken
DEAD = 1e-3  # of the float network's spread of logits, over the images or over the classes
SPREAD = 1e-5  # of |logits|: less is the float arithmetic's own noise, and the float network is dead itself


def compared(engine: Path, path: Path, source: Path, probe: np.ndarray, threads: int = 1) -> dict[str, Any]:
    """{"to_file", "to_source": distances, "verdict", "why"} of the engine in folder `engine`, which can run here.

    path: the ONNX file it was built from. source: the float file that one was made from. probe: normalized images
    (n, C, H, W). Raises EngineError or OnnxError when one of them cannot run.
    """
    with load_engine(engine, threads) as opened:
        found = opened.infer(probe)
    written, float_logits = run(path, probe, optimize=False), run(source, probe)
    to_file, to_source = distance(found, written), distance(found, float_logits)
    record = read_record(engine)
    verdict, why = judged(to_file, to_source, distance(written, float_logits), record.precision, record.compute)
    if to_source is not None and (told := dead(found, float_logits)):
        verdict, why = "broken", told
    return {"to_file": to_file, "to_source": to_source, "verdict": verdict, "why": why}


def distance(one: np.ndarray, other: np.ndarray) -> float | None:
    """|one - other| / |other|; None where `one` is not finite."""
    if not np.isfinite(one).all():
        return None
    norm = float(np.linalg.norm(other))
    return float(np.linalg.norm(one - other)) / norm if norm else float(np.linalg.norm(one))


def dead(found: np.ndarray, source: np.ndarray) -> str | None:
    """How logits (n, K) tell nothing where those of the float network, `source`, do; None where they tell something.

    No rounding of any format makes that of a network that works.
    """
    for axis, what in ((0, "it answers every image alike"), (1, "it gives all classes the same logit")):
        here, there = (float(np.linalg.norm(one - one.mean(axis=axis, keepdims=True))) for one in (found, source))
        if here <= DEAD * there and there > SPREAD * float(np.linalg.norm(source)):
            return f"{what}, which the float network does not"
    return None


def judged(to_file: float | None, to_source: float | None, rounding: float | None, precision: str, compute: str
           ) -> tuple[Verdict, str]:
    """The verdict on an engine of `precision` that computes in `compute`, and why; `dead` comes before it.

    rounding: distance of its file from the float network; None: the file's logits are not finite.
    """
    if to_file is None or to_source is None:
        return "broken", "its logits are NaN or infinite"
    if rounding is None:
        return "undecidable", "the logits of its own ONNX file, run node by node, are NaN or infinite"
    limit = LARGEST_TO_FILE.get(precision) or LARGEST_TO_FILE[compute]
    coarse = precision in ROUNDED and rounding > TELLING
    if precision in ROUNDED and not coarse:
        limit = max(limit, 2 * rounding)
    away = f"its logits are {to_file:.2g} away from those of its own ONNX file run node by node"
    if to_file >= limit:
        if coarse and to_file < NOTHING:
            return "undecidable", (f"{away}, and those {rounding:.2g} from the float network's: rounding so coarse may "
                                   "explain it or hide a fault")
        return "broken", f"{away}, where rounding explains {limit:.2g}: the runtime computes something else"
    if to_source >= NOTHING and precision not in COARSE:
        return "broken", (f"its logits are {to_source:.2g} away from those of the float network, as far as those of no "
                          "network at all")
    if rounding > TELLING:
        return "undecidable", (f"the logits of its own ONNX file, which it computes, are {rounding:.2g} away from the "
                               "float network's: rounding so coarse may explain it or hide a fault")
    return "kept", ""

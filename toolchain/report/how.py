"""How the figures of a report were taken, and on what machine, in sentences and rows."""

from __future__ import annotations

from typing import Any

from toolchain.report.schema import Report
from toolchain.report.words import NOTHING, size


def measured(report: Report) -> list[str]:
    """Sentences on how the figures were taken, from the recipe's `measure` section and the counts found."""
    cfg = report.recipe.get("measure", {})
    counts = sorted({e.latency_ms.n for e in report.engines if e.latency_ms})
    n = f" ({' or '.join(f'{c:,}' for c in counts)} timed runs of each engine)" if counts else ""
    told = [(e.model_extra or {}).get("latency_conditions") for e in report.engines]
    conditions: dict[str, Any] = next(filter(None, told), {})
    threads = conditions.get("threads") or cfg.get("threads") or "all physical"
    settled = conditions.get("settle_ms")
    first = f"; those of a burst's first {settled:g} ms (2 to 20 runs) do not count" if settled else ""
    return [
        f"Accuracy: top-1 of the engine's own answers on all {report.data.test:,} test images, with a 95 % interval; "
        "agreement is the share of images answered as the FP32 engine answers them.",
        f"Latency: device only, batch {cfg.get('batch', NOTHING)}, {cfg.get('warmup', NOTHING)} untimed runs first, "
        f"then {cfg.get('rounds', NOTHING)} rounds of {cfg.get('runs_per_round', NOTHING)} runs of every engine, in "
        f"random order{n}{first}; {threads} CPU threads. ± is one standard deviation.",
        "Speed-up: FP32 latency divided by the engine's, against the FP32 engine of the same runtime where there is "
        "one and never across CPU and GPU, with a bootstrap 95 % interval over rounds."
        + _samples_kept(report),
        "Weights: bytes of all weights as stored in the engine's ONNX file. Engine file: the file that ships. "
        "Deflated: that file as zlib packs it at level 6. 1 MB = 1,000,000 bytes.",
    ]


def _samples_kept(report: Report) -> str:
    """' Every sample lies in latency.npz of stages/measure-0123456789abcdef.', or nothing where none was timed."""
    key = next((stage.key for stage in report.stages if stage.name == "measure"), None)
    timed = any(engine.latency_ms for engine in report.engines)
    return f" Every sample lies in latency.npz of stages/measure-{key[:16]}." if key and timed else ""


def environment(report: Report) -> list[tuple[str, str]]:
    """The machine as (what, value) rows; what is unknown is left out."""
    env = report.environment
    cores = f"{env.physical_cores} physical, {env.logical_cores} logical" if env.physical_cores else None
    load = ", ".join(f"{x:.2f}" for x in env.load_average) + " (1, 5, 15 min)" if env.load_average else None
    gpus = "; ".join(g.name + (f" (sm{g.sm})" if g.sm else "") + (f", driver {g.driver}" if g.driver else "")
                     for g in env.gpus)
    rows = [("CPU", env.cpu), ("Cores", cores), ("Instruction sets", ", ".join(env.instruction_sets)),
            ("Memory", size(env.memory_bytes) if env.memory_bytes else None), ("Load average", load),
            ("GPU", gpus or f"none ({env.gpu_reason})" if env.gpu_reason or gpus else "none"),
            ("Platform", env.platform), ("Python", env.python)]
    return [(what, value) for what, value in rows if value]

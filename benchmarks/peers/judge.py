"""Which INT8 file is best: top-1, latency on ONNX Runtime's CPU provider, bytes, and what making it took.

Every file is opened with the same session options; latencies come from interleaved rounds, compared by paired ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from toolchain.engines.ort_session import open_engine
from toolchain.measure.latency import speedup
from toolchain.measure.statistics import paired_interval
from toolchain.runner.rounds import interleaved_ms, summary

FLOAT, OURS = "FP32", "this project"
BATCH, SEED = 50, 0
WARMUP, RUNS = 10, 10


def judge(files: Mapping[str, Path], images: np.ndarray, labels: np.ndarray, threads: Sequence[int], rounds: int
          ) -> dict[str, dict[str, Any]]:
    """Per file: {"top1_percent", "right": [bool], "bytes", "ms": {threads: (rounds, runs)}}, or {"refused": reason}.

    images: float32 (n, 3, S, S); one of them is what latency is measured on.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        try:
            with _opened(path, max(threads)) as engine:
                logits = [engine.infer(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
            right = np.concatenate(logits).argmax(axis=1) == labels
            found[name] = {"top1_percent": 100 * float(right.mean()), "right": right.tolist(),
                           "bytes": path.stat().st_size, "ms": {}}
        except Exception as wrong:  # a peer's file may fail in any way; the others are still judged
            found[name] = {"refused": str(wrong).splitlines()[0][:200]}
    runs = [name for name, entry in found.items() if "ms" in entry]
    for count in threads:
        with ExitStack() as stack:
            engines = {name: stack.enter_context(_opened(files[name], count)) for name in runs}
            samples = interleaved_ms(engines, dict.fromkeys(engines, images[:1]), warmup=WARMUP, rounds=rounds,
                                     runs=RUNS, seed=SEED)
        for name, taken in samples.items():
            found[name]["ms"][str(count)] = taken.tolist()
    return found


def _opened(path: Path, threads: int) -> Any:
    return open_engine(SimpleNamespace(name=path.name, target="cpu_x86"), path, threads)  # type: ignore[arg-type]


def table(judged: Mapping[str, dict[str, Any]], costs: Mapping[str, dict[str, float]], ours: str) -> list[str]:
    """Markdown rows, one per file. `ours`: the file that the paired ratios are to.

    costs: file -> {"seconds", "cpu_seconds", "peak_rss_bytes"} of making it; FP32 has none.
    """
    threads = list(judged[ours]["ms"])
    lines = ["| file | top-1 % | against ours (95 %) | " + " | ".join(
        f"p50 ms, {n} thread{'s' * (n != '1')} | / ours (95 %)" for n in threads)
        + " | bytes | seconds | CPU seconds | peak memory |", "| :--- " + "| ---: " * (2 * len(threads) + 6) + "|"]
    for name, entry in judged.items():
        if "ms" not in entry:
            lines.append(f"| {name} | *{entry['refused']}* " + "| – " * (2 * len(threads) + 5) + "|")
            continue
        cells = [f"{entry['top1_percent']:.2f}", _difference(entry, judged[ours])]
        for n in threads:
            taken = np.array(entry["ms"][n])
            ratio = speedup(taken, np.array(judged[ours]["ms"][n]), SEED)
            cells += [f"{summary(taken)['p50']:.3f}", f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"]
        cost = costs.get(name)
        cells += [f"{entry['bytes']:,}", *([f"{cost['seconds']:.1f}", f"{cost['cpu_seconds']:.1f}",
                                            f"{cost['peak_rss_bytes'] / 1e6:.0f} MB"] if cost else ["–"] * 3)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def verdicts(judged: Mapping[str, dict[str, Any]], costs: Mapping[str, dict[str, float]], ours: str,
             peers: Sequence[str]) -> list[str]:
    """One line per question: our file `ours` against the best of `peers` in that question alone."""
    ran = [name for name in peers if "ms" in judged[name]]
    if not ran:
        return ["- no peer's file ran"]
    best = max(ran, key=lambda name: judged[name]["top1_percent"])
    lines = [f"- top-1: {judged[ours]['top1_percent']:.2f} % against {judged[best]['top1_percent']:.2f} % ({best}); "
             f"theirs minus ours {_difference(judged[best], judged[ours])} points"]
    for n in judged[ours]["ms"]:
        mine = np.array(judged[ours]["ms"][n])
        ratios = {name: speedup(np.array(judged[name]["ms"][n]), mine, SEED) for name in ran}
        fastest = min(ran, key=lambda name: ratios[name]["value"])
        ratio, fp32 = ratios[fastest], speedup(np.array(judged[FLOAT]["ms"][n]), mine, SEED)
        lines.append(f"- latency, {n} thread{'s' * (n != '1')}: the fastest peer ({fastest}) takes "
                     f"{ratio['value']:.2f} × ours ({ratio['low']:.2f}–{ratio['high']:.2f}); "
                     f"FP32 {fp32['value']:.2f} × ours ({fp32['low']:.2f}–{fp32['high']:.2f})")
    smallest = min(ran, key=lambda name: judged[name]["bytes"])
    lines.append(f"- bytes: {judged[ours]['bytes']:,} against {judged[smallest]['bytes']:,} ({smallest})")
    for key, what, unit in (("seconds", "wall time", "{:.1f} s"), ("cpu_seconds", "CPU time", "{:.1f} s"),
                            ("peak_rss_bytes", "peak memory", "{:,.0f} bytes")):
        least = min(ran, key=lambda name: costs[name][key])
        lines.append(f"- {what}: {unit.format(costs[ours][key])} against {unit.format(costs[least][key])} ({least}), "
                     f"{costs[ours][key] / costs[least][key]:.2f} of it")
    return lines


def _difference(entry: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Top-1 minus ours in points, with a paired bootstrap interval over the test images."""
    paired = 100 * (np.array(entry["right"], float) - np.array(ours["right"], float))
    found = paired_interval(paired, SEED)
    return f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"

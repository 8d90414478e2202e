"""A run held against its baseline: every engine, every quantity, and one outcome."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolchain.check.accuracy import accuracy_findings
from toolchain.check.baseline import Baseline, BaselineEngine, conditions, doubts, recipe_digest
from toolchain.check.finding import Finding, Tolerances
from toolchain.check.finished_run import Run
from toolchain.check.pack import numbers, read_numbers
from toolchain.check.paired import Outcome
from toolchain.check.speed import slowdown
from toolchain.errors import DataError
from toolchain.report.schema import EngineResult

MB = 1_000_000


def check(run: Run, baseline: Baseline, asked: Tolerances, file: Path | str = "the baseline") -> list[Finding]:
    """Everything that was found, engine by engine in the report's order. Raises DataError for other test images."""
    _same_images(run, baseline, file)
    found = accuracy_findings(run, baseline, asked)
    for engine in run.report.engines:
        before = baseline.engines.get(engine.name)
        found += _presence(engine, before)
        if before and engine.built:
            found += [*_sizes(engine, before, asked), *_memory(engine, before, run, asked),
                      *_latency(engine, before, run, asked)]
    names = [engine.name for engine in run.report.engines]
    found += _gone(run, baseline, names)
    place = {name: i for i, name in enumerate([*names, *baseline.engines])}
    return sorted(found, key=lambda finding: place[finding.engine])


def _same_images(run: Run, baseline: Baseline, file: Path | str) -> None:
    """Answers can be paired image by image. Raises DataError."""
    images = baseline.images
    if images.keys_sha256 != run.keys_sha256:
        counts = f"{images.n:,} and {len(run.labels):,} of them" if images.n != len(run.labels) else (
            f"{images.n:,} of each, but not the same ones, or not normalized alike")
        raise DataError(f"{file}: was made with other test images than this run ({counts}), so they cannot be compared "
                        "image by image; build with the same data section, or make a new baseline")
    if images.labels_sha256 != run.labels_sha256:
        raise DataError(f"{file}: has the same test images with other labels; if the labels were mended, make a new "
                        "baseline")


def _presence(engine: EngineResult, before: BaselineEngine | None) -> Iterable[Finding]:
    if not engine.built:
        outcome: Outcome = "regression" if before else "not judged"
        yield Finding(engine.name, "engine", outcome, f"{engine.reason}" + (
            "; the baseline has it" if before else "; the baseline has none either"))
    elif before is None:
        yield Finding(engine.name, "engine", "not judged", "new: the baseline has none")
    elif before.answers is not None and not engine.measured:
        yield Finding(engine.name, "engine", "not enough evidence",
                      f"the baseline's was measured, this one was not: {engine.reason}")


def _gone(run: Run, baseline: Baseline, names: list[str]) -> Iterable[Finding]:
    same = baseline.recipe_sha256 == recipe_digest(run.report)
    for name in baseline.engines:
        if name not in names:
            yield Finding(name, "engine", "not enough evidence",
                          "not in this run, though the recipe is the baseline's: is its runtime installed here?" if same
                          else "not in this run, whose recipe is another than the baseline's: make the baseline anew "
                          "if that is meant")


def _sizes(engine: EngineResult, before: BaselineEngine, asked: Tolerances) -> Iterable[Finding]:
    for what, was, now in (("engine file", before.engine_bytes, engine.engine_bytes),
                           ("weights", before.weight_bytes, engine.weight_bytes)):
        if was and now is not None:
            bad = now > was * (1 + asked.size_percent / 100)
            yield Finding(engine.name, what, "regression" if bad else "pass", f"{was:,} → {now:,} bytes "
                          f"({_change(now / was)})", {"before_bytes": was, "bytes": now})


def _memory(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> Iterable[Finding]:
    was, now = before.peak_memory_bytes, engine.peak_memory_bytes
    if not was or now is None:
        return
    unlike = conditions(engine, run.report).unlike(before.conditions)
    words = f"{was / MB:.1f} → {now / MB:.1f} MB ({_change(now / was)})"
    bad = now > was * (1 + asked.memory_percent / 100) and now - was > asked.memory_mb * MB
    outcome: Outcome = "not judged" if unlike else "regression" if bad else "pass"
    said = f"{words}; not compared: {', '.join(unlike)}" if unlike else words
    yield Finding(engine.name, "peak memory", outcome, said, {"before_bytes": was, "bytes": now})


def _latency(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> Iterable[Finding]:
    """By the ratio of both speed-ups over FP32; milliseconds of two days are shown, and not compared."""
    if before.p50_ms is None or engine.latency_ms is None:
        return
    words = f"{before.p50_ms:.3g} → {engine.latency_ms.p50:.3g} ms"
    ratios = run.ratios.get(engine.name)
    if why := _incomparable(engine, before, run, asked):
        yield Finding(engine.name, "latency", "not judged", f"{words}; {why}")
        return
    assert before.speedup_by_round is not None and ratios is not None and asked.latency_percent is not None
    # the run's ratios are rounded as the baseline's were, so that a run equals its own baseline
    was, now = read_numbers(before.speedup_by_round), read_numbers(numbers(ratios))
    found = slowdown(was, now, asked.latency_percent / 100, asked.alpha)
    figures: dict[str, float | int | None] = {"ratio": found.value, "low": found.low, "high": found.high,
                                              "rounds": len(now), "rounds_needed": found.needed}
    words += (f"; {found.value:.3f} times as slow as the baseline, by its ratio to FP32 "
              f"({100 - 100 * asked.alpha:g} %: {found.low:.3f} to {found.high:.3f})")
    outcome, doubted = found.outcome, [f"{whose} was inconclusive ({', '.join(causes)})" for whose, causes in (
        ("the baseline", before.inconclusive), ("this measurement", doubts(engine))) if causes]
    if outcome == "not enough evidence":
        words += f"; about {found.needed:,} rounds would decide" if found.needed else "; too near the limit to decide"
    elif outcome == "regression" and doubted:
        outcome, words = "not enough evidence", f"{words}, but {' and '.join(doubted)}: measure on a quiet machine"
    yield Finding(engine.name, "latency", outcome, words, figures)


def _incomparable(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> str | None:
    """Why its latency is not judged; None: it is."""
    if engine.latency_reference == engine.name:
        return "the others are judged by their ratio to it"
    if asked.latency_percent is None:
        return "not judged, as asked"
    if unlike := conditions(engine, run.report).unlike(before.conditions):
        return f"not compared: {', '.join(unlike)}"
    if before.speedup_by_round is None or engine.name not in run.ratios:
        return "without an FP32 engine there is no ratio to judge by"
    if before.latency_reference != engine.latency_reference:
        return f"the baseline's is its ratio to {before.latency_reference}, this to {engine.latency_reference}"
    return None


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %" if ratio != 1 else "equal"

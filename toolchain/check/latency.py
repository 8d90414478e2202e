"""Latency against the baseline's: judged by ratios to FP32; what slows FP32 itself is a notice, and fails nothing."""

from __future__ import annotations

from collections.abc import Iterable

from toolchain.check.baseline import Baseline, BaselineEngine, conditions, doubts
from toolchain.check.finding import Finding, Tolerances
from toolchain.check.finished_run import Run
from toolchain.check.pack import numbers, read_numbers
from toolchain.check.speed import FEWEST_ROUNDS, Slowdown, slowdown
from toolchain.report.schema import EngineResult

SLOWER_DAY = 1.5  # milliseconds of two machines of one name, or two days of one, differ by less than this
OURS, THEIRS = "this run", "the baseline"


def latency_findings(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> Iterable[Finding]:
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
    words += (f"; by its ratio to FP32 {found.value:.3f} times the baseline's time ({100 - 100 * asked.alpha:g} %: "
              f"{found.low:.3f} to {found.high:.3f}; up to {1 + asked.latency_percent / 100:g} passes)")
    outcome = found.outcome
    doubted = {whose: ", ".join(causes) for whose, causes in ((THEIRS, before.inconclusive), (OURS, doubts(engine)))
               if causes}
    if outcome == "not enough evidence":
        short = {OURS: found.needed, THEIRS: found.baseline_needed}
        quiet = " and ".join(f"{whose} was inconclusive ({why})" for whose, why in doubted.items() if short[whose])
        fewer = f". Fewer do on a quiet machine: {quiet}" if quiet else ""
        words += f"; {_rounds(found, len(was), len(now), run.on)}{fewer}"
    elif outcome == "regression" and doubted:
        outcome, words = "not enough evidence", f"{words}, but {_remeasured(doubted, run)}"
    yield Finding(engine.name, "latency", outcome, words, {
        "ratio": found.value, "low": found.low, "high": found.high, "rounds": len(now), "rounds_needed": found.needed,
        "baseline_rounds": len(was), "baseline_rounds_needed": found.baseline_needed})


def slower_references(run: Run, baseline: Baseline, asked: Tolerances) -> list[str]:
    """A sentence for each engine that the others are judged by, where it is far slower than it was on such a machine.

    What slows every engine alike leaves all ratios as they are; two machines differ too, so it is said and no more.
    """
    told = []
    for engine in run.report.engines:
        before = baseline.engines.get(engine.name)
        if (engine.latency_reference != engine.name or engine.latency_ms is None or before is None
                or before.p50_ms is None or asked.latency_percent is None):
            continue
        slower = engine.latency_ms.p50 / before.p50_ms
        unlike = conditions(engine, run.report).unlike(before.conditions)
        if slower > SLOWER_DAY and not (unlike or before.inconclusive or doubts(engine)):
            told.append(f"{engine.name} takes {engine.latency_ms.p50:.3g} ms, {slower:.1f} times the baseline's "
                        f"{before.p50_ms:.3g} ms, on a machine of the same name and settings: the others are judged by "
                        "their ratio to it, which does not show what slows all of them alike. A slower machine is no "
                        "regression, so this fails nothing")
    return told


def _incomparable(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> str | None:
    """Why its latency is not judged; None: it is."""
    if engine.latency_reference == engine.name:
        return "shown only: the others are judged by their ratio to it"
    if asked.latency_percent is None:
        return "not judged, as asked"
    if unlike := conditions(engine, run.report).unlike(before.conditions):
        return f"not compared: {', '.join(unlike)}"
    if before.speedup_by_round is None or engine.name not in run.ratios:
        return "without an FP32 engine there is no ratio to judge by"
    if before.latency_reference != engine.latency_reference:
        return f"the baseline's is its ratio to {before.latency_reference}, this to {engine.latency_reference}"
    return None


def _remeasured(doubted: dict[str, str], run: Run) -> str:
    """What to do about each side that was inconclusive."""
    again = f"on a quiet machine with {run.on}--remeasure"
    ways = {OURS: f"build again {again}", THEIRS: f"write it anew from a build {again}"}
    return "; ".join(f"{whose} was inconclusive ({why}): {ways[whose]}" for whose, why in doubted.items())


def _rounds(found: Slowdown, was: int, now: int, on: str) -> str:
    """Which side has too few rounds, how many would decide, and how to get them. was, now: the rounds there are. on: of
    the run."""
    ours, theirs = found.needed, found.baseline_needed
    about = "at least" if min(was, now) < FEWEST_ROUNDS else "about"
    if ours and theirs:
        return (f"both have too few rounds: {about} {ours:,} in this run (now {now}) and {theirs:,} in the baseline "
                f"(now {was}) would decide; build again with {on}--set measure.rounds={ours}, and write the baseline "
                f"anew from a build with {on}--set measure.rounds={theirs}")
    if ours:
        return (f"this run has too few rounds: {about} {ours:,} would decide (now {now}); build again with {on}--set "
                f"measure.rounds={ours}")
    if theirs:
        return (f"the baseline has too few rounds: {about} {theirs:,} would decide (now {was}); write it anew from a "
                f"build with {on}--set measure.rounds={theirs}")
    return "too near the limit for any number of rounds: choose another --latency"

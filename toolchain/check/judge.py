"""A run held against its baseline: every engine, every quantity, and one outcome."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolchain.check.accuracy import accuracy_findings
from toolchain.check.baseline import Baseline, BaselineEngine, conditions, recipe_digest
from toolchain.check.finding import Finding, Tolerances, change
from toolchain.check.finished_run import Run
from toolchain.check.latency import latency_findings, slower_references
from toolchain.check.paired import Outcome
from toolchain.errors import DataError
from toolchain.report.schema import EngineResult

MB = 1_000_000


def check(run: Run, baseline: Baseline, asked: Tolerances, file: Path | str = "the baseline") -> list[Finding]:
    """Everything that was found, engine by engine in the report's order. Raises DataError for a baseline of another
    device or of other test images.
    """
    _same_device(run, baseline, file)
    _same_images(run, baseline, file)
    found = accuracy_findings(run, baseline, asked)
    for engine in run.report.engines:
        before = baseline.engines.get(engine.name)
        found += _presence(engine, before)
        found += _golden(engine, run)
        if before and engine.built:
            found += [*_sizes(engine, before, asked), *_memory(engine, before, run, asked),
                      *latency_findings(engine, before, run, asked)]
    names = [engine.name for engine in run.report.engines]
    found += _gone(run, baseline, names)
    place = {name: i for i, name in enumerate([*names, *baseline.engines])}
    return sorted(found, key=lambda finding: place[finding.engine])


def notices(run: Run, baseline: Baseline, asked: Tolerances) -> list[str]:
    """What is to be known of the two, and is of no outcome."""
    name = str(run.report.recipe.get("name"))
    other = [] if baseline.recipe == name else [
        f"the baseline is of the recipe {baseline.recipe!r}, this run of {name!r}: if that is not meant, name the "
        "baseline of this recipe"]
    return other + slower_references(run, baseline, asked)


def _place(device: str | None) -> str:
    return f"the device {device!r}" if device else "the machine that built it"


def _same_device(run: Run, baseline: Baseline, file: Path | str) -> None:
    """A baseline of another device is a wrong path: engines there have other names, so next to nothing would be judged.
    Raises DataError.
    """
    if baseline.device == run.device:
        return
    judged = f" --device {run.device}" if run.device else ""
    otherwise = f"judge that one with --device {baseline.device}" if baseline.device else "leave --device out"
    raise DataError(f"{file}: is of {_place(baseline.device)}, but what is judged is of {_place(run.device)}; name the "
                    f"baseline that `toolchain baseline RUN{judged}` wrote, or {otherwise}")


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


def _golden(engine: EngineResult, run: Run) -> Iterable[Finding]:
    """Of a device: it is told there, and nowhere else, since a build holds its own engines to it."""
    if getattr(engine, "golden_held", None) is False:
        yield Finding(engine.name, "golden answers", "regression",
                      f"on {run.device} it does not answer the golden inputs as where it was built")


def _gone(run: Run, baseline: Baseline, names: list[str]) -> Iterable[Finding]:
    place = f"on {run.device}" if run.device else "here"
    same = baseline.recipe_sha256 == recipe_digest(run.report)
    for name in baseline.engines:
        if name not in names:
            yield Finding(name, "engine", "not enough evidence",
                          f"not in this run, though the recipe is the baseline's: is its runtime installed {place}?"
                          if same else "not in this run, whose recipe is another than the baseline's: make the "
                          "baseline anew if that is meant")


def _sizes(engine: EngineResult, before: BaselineEngine, asked: Tolerances) -> Iterable[Finding]:
    for what, was, now in (("engine file", before.engine_bytes, engine.engine_bytes),
                           ("weights", before.weight_bytes, engine.weight_bytes)):
        if was and now is not None:
            bad = now > was * (1 + asked.size_percent / 100)
            yield Finding(engine.name, what, "regression" if bad else "pass", f"{was:,} → {now:,} bytes "
                          f"({change(now / was)})", {"before_bytes": was, "bytes": now})


def _memory(engine: EngineResult, before: BaselineEngine, run: Run, asked: Tolerances) -> Iterable[Finding]:
    was, now = before.peak_memory_bytes, engine.peak_memory_bytes
    if not was or now is None:
        return
    unlike = conditions(engine, run.report).unlike(before.conditions)
    words = f"{was / MB:.1f} → {now / MB:.1f} MB ({change(now / was)})"
    bad = now > was * (1 + asked.memory_percent / 100) and now - was > asked.memory_mb * MB
    outcome: Outcome = "not judged" if unlike else "regression" if bad else "pass"
    said = f"{words}; not compared: {', '.join(unlike)}" if unlike else words
    yield Finding(engine.name, "peak memory", outcome, said, {"before_bytes": was, "bytes": now})

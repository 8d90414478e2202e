"""Is a run right less often than its baseline, than FP32 allows, or on one class?

The chance of a false alarm is shared out: half of alpha to the overall comparisons, in equal parts (Bonferroni), half
to the classes of all engines together (Holm). A known loss by quantization is no regression: against FP32 of the same
run the recipe's own `top1_drop` is allowed or, without one, what the baseline lost; only more counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from toolchain.check.baseline import Baseline
from toolchain.check.finding import Finding, Tolerances
from toolchain.check.finished_run import Run
from toolchain.check.pack import unpacked
from toolchain.check.paired import Differences, Judged, coin_tail, differences, holm, judge

Codes = NDArray[np.int64]  # (N,) 0 where right
Test = Callable[[float], Finding]
BEFORE, FP32, CLASSES = "top-1 against the baseline", "top-1 against FP32", "classes"
SHOWN = 3  # classes


def accuracy_findings(run: Run, baseline: Baseline, asked: Tolerances) -> list[Finding]:
    """Every engine that was measured in both, against the baseline, against FP32 and class by class."""
    before = {name: unpacked(engine.answers, baseline.images.n) for name, engine in baseline.engines.items()
              if engine.answers is not None}
    tests: list[Test] = []
    for name, now in run.codes.items():
        if name in before:
            tests.append(partial(_against, name, before[name], now, asked))
        tests += _against_fp32(name, run, before, baseline, asked)
    found = [test(asked.alpha / 2 / len(tests)) for test in tests]
    return found + _classes(run, before, asked.alpha / 2)


def _against(name: str, before: Codes, now: Codes, asked: Tolerances, alpha: float) -> Finding:
    pairs = differences(_worth(before) - _worth(now))
    judged = judge(pairs, asked.margin_points / 100, alpha, asked.beta)
    words = (f"{_percent(before)} → {_percent(now)} %, {pairs.worse} images lost and {pairs.better} gained of "
             f"{pairs.images:,}; {_decided(judged, asked)}")
    return Finding(name, BEFORE, judged.outcome, words, _figures(pairs, judged, alpha))


def _against_fp32(name: str, run: Run, before: dict[str, Codes], baseline: Baseline, asked: Tolerances) -> list[Test]:
    engine = next(engine for engine in run.report.engines if engine.name == name)
    reference = engine.accuracy_reference
    limit = next((held.asked for held in run.report.limits if (held.engine, held.limit) == (name, "top1_drop")), None)
    if reference is None or reference == name or reference not in run.codes:
        return []
    lost = _worth(run.codes[reference]) - _worth(run.codes[name])
    old = baseline.engines[name].accuracy_reference if name in before else None
    more = lost - (_worth(before[old]) - _worth(before[name])) if old in before and old is not None else None
    if limit is None and more is None:
        return []
    return [partial(_fp32, name, lost, more, limit, asked)]


def _fp32(name: str, lost: Codes, more: Codes | None, limit: float | None, asked: Tolerances, alpha: float) -> Finding:
    """lost: (N,) what FP32 is right in and the engine not. more: the same, minus the baseline's."""
    margin, drop = asked.margin_points / 100, 100 * float(lost.mean())
    grown = judge(differences(more), margin, alpha, asked.beta) if more is not None else None
    if limit is None:
        assert grown is not None and more is not None
        was = _below(drop - 100 * grown.drop)
        words = f"{_below(drop)} FP32, the baseline {was}; {_decided(grown, asked)}"
        return Finding(name, FP32, grown.outcome, words, _figures(differences(more), grown, alpha))
    judged = judge(differences(lost), margin, alpha, asked.beta, limit / 100)
    figures = _figures(differences(lost), judged, alpha) | {"allowed": limit}
    words = f"{_below(drop)} FP32, where the recipe allows {limit:g}; "
    if judged.outcome == "not enough evidence" and grown and grown.outcome == "pass":
        return Finding(name, FP32, "pass", words + "no more than the baseline's", figures)
    return Finding(name, FP32, judged.outcome, words + _decided(judged, asked), figures)


def _classes(run: Run, before: dict[str, Codes], alpha: float) -> list[Finding]:
    names, counts = run.report.data.classes, max(int(run.labels.max()) + 1, len(run.report.data.classes))
    tested = [name for name in run.codes if name in before]
    lost, gained = (np.array([
        np.bincount(run.labels[_worth(before[name]) - _worth(run.codes[name]) == sign], minlength=counts)
        for name in tested]).reshape(len(tested), counts) for sign in (1, -1))
    images = np.maximum(np.bincount(run.labels, minlength=counts), 1)
    tails = [coin_tail(int(b), int(b + c)) for b, c in zip(lost.flat, gained.flat, strict=True)]
    significant = np.array(holm(tails, alpha), bool).reshape(lost.shape)
    found = []
    for row, name in enumerate(tested):
        drops = 100 * (lost[row] - gained[row]) / images
        order = [k for k in np.argsort(-drops, kind="stable") if drops[k] > 0]
        shown = [k for k in order if significant[row, k]] or order[:SHOWN]
        words = ", ".join(f"{_called(names, k)} {-drops[k]:+.1f} points ({lost[row, k]} lost, {gained[row, k]} gained, "
                          f"of {images[k]})" for k in shown)
        bad = bool(significant[row].any())
        told = f"worse: {words}" if bad else f"none is worse beyond chance; largest drops: {words}" if words else (
            "none is worse")
        found.append(Finding(name, CLASSES, "regression" if bad else "pass", told,
                             {"worse": int(significant[row].sum()), "classes": counts}))
    return found


def _called(names: list[str], label: int) -> str:
    return repr(names[label]) if label < len(names) else f"class {label}"


def _worth(codes: Codes) -> Codes:
    """(N,) 1 where right, else 0."""
    return (codes == 0).astype(np.int64)


def _below(drop: float) -> str:
    """drop: in points, negative where it is better."""
    return f"{abs(drop):.2f} points {'below' if drop >= 0 else 'above'}"


def _percent(codes: Codes) -> str:
    return f"{100 * float(np.mean(codes == 0)):.2f}"


def _decided(judged: Judged, asked: Tolerances) -> str:
    bound, margin = f"{100 * judged.bound:.2f}", f"{asked.margin_points:g}"
    if judged.outcome == "regression":
        return "worse beyond chance"
    if judged.outcome == "pass":
        real = "a real drop, too small to matter, " if judged.significant else ""
        return f"{real}at most {bound} points worse" if judged.bound > 0 else "no worse"
    return (f"may be up to {bound} points worse, more than the margin of {margin}: about {judged.needed:,} test images "
            f"would decide, and --margin {math.ceil(1e4 * judged.bound) / 100:g} would let it pass")


def _figures(pairs: Differences, judged: Judged, alpha: float) -> dict[str, float | int | None]:
    return {"images": pairs.images, "lost": pairs.worse, "gained": pairs.better, "drop_points": 100 * judged.drop,
            "bound_points": 100 * judged.bound, "alpha": alpha, "images_needed": judged.needed}

"""A sweep over bits: accuracy against bits and bytes, the law of each curve, and rows at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolchain.recipe.study import StudyFile
from toolchain.report.part import Part
from toolchain.study.compare import Spread, Verdict, spread, verdict
from toolchain.study.figures import Outcome
from toolchain.study.law import FEWEST_BITS, FEWEST_SEEDS, HIGHEST, fit, not_a_law

if TYPE_CHECKING:
    from toolchain.study.result import Outcomes


class Estimate(Part):
    """Of the law through the means; its 95 % interval from the laws of the seeds, each fitted alone (Student's t).

    Without an interval where a seed alone has no law, or where it would leave what the figure can be.
    """

    value: float
    low: float | None = None
    high: float | None = None


class Law(Part):
    """acc(b) = a - amplitude exp(-k (b - 2)), in points. float_gap: what the same seeds' float networks are above a."""

    a: Estimate
    amplitude: Estimate
    k: Estimate
    rmse: float
    bits_for_one_point: Estimate | None
    float_gap: float | None


class SweepPoint(Part):
    """One row at so many bits. bytes: its weights packed, all float tensors with them; the same for every seed."""

    bits: int
    bytes: float | None
    values: dict[int, float]
    mean: float
    std: float | None
    low: float | None
    high: float | None


class Curve(Part):
    """One row of the study at all its bits. law is null where no_law says why."""

    row: str
    points: list[SweepPoint]
    float_top1: float | None
    law: Law | None
    no_law: str | None


class AtBytes(Part):
    """A row and the one it is compared with, both at `bytes`: one of them there, the other between two of its bits."""

    row: str
    against: str
    bytes: float
    row_top1: float
    against_top1: float
    mean: float
    low: float | None
    high: float | None
    verdict: Verdict


class SweepResult(Part):
    """What a sweep found. apart: pairs of rows whose bytes do not overlap."""

    bits: list[int]
    against: str | None
    curves: list[Curve]
    at_bytes: list[AtBytes]
    apart: list[str]


def swept(file: StudyFile, outcomes: Outcomes) -> SweepResult | None:
    """The curves of the runs that are finished; None of a study without a sweep."""
    cfg = file.study.sweep
    if cfg is None:
        return None
    curves = [_curve(name, rows, outcomes) for name, rows in file.swept.items()]
    found: list[AtBytes] = []
    apart: list[str] = []
    base = next((curve for curve in curves if curve.row == cfg.against), None)
    for curve in curves:
        if base is not None and curve is not base and (pairs := at_equal_bytes(curve, base)) is not None:
            found += pairs
            apart += [] if pairs else [f"{curve.row} and {base.row}"]
    return SweepResult(bits=list(cfg.bits), against=cfg.against, curves=curves, at_bytes=found, apart=apart)


def at_equal_bytes(row: Curve, against: Curve) -> list[AtBytes] | None:
    """`row` minus `against` at every size that one of them has and both reach, linear in log bytes in between.

    Seed by seed where they share seeds. Empty: their sizes do not overlap. None: one of them has no finished point.
    """
    seeds = [s for s in _seeds(row) if s in _seeds(against)]
    ours, theirs = ([p for p in curve.points if p.bytes and all(s in p.values for s in seeds)]
                    for curve in (row, against))
    if not seeds or not ours or not theirs:
        return None
    low = max(min(p.bytes or 0 for p in some) for some in (ours, theirs))
    high = min(max(p.bytes or 0 for p in some) for some in (ours, theirs))
    rows = []
    for size in sorted({p.bytes or 0 for p in (*ours, *theirs)}):
        if not low <= size <= high:
            continue
        first, second = ({s: _at(some, s, size) for s in seeds} for some in (ours, theirs))
        difference = spread({s: first[s] - second[s] for s in seeds})
        rows.append(AtBytes(
            row=row.row, against=against.row, bytes=size, row_top1=spread(first).mean,
            against_top1=spread(second).mean, mean=difference.mean, low=difference.low, high=difference.high,
            verdict=verdict(difference, None)))
    return rows


def _curve(name: str, rows: Mapping[int, str], outcomes: Outcomes) -> Curve:
    points, floats = [], dict[int, float]()
    for bits, row in rows.items():
        runs = {seed: outcome for (of, seed), outcome in outcomes.items() if of == row and isinstance(outcome, Outcome)}
        values = {seed: run.figures["top1"] for seed, run in runs.items() if "top1" in run.figures}
        floats |= {seed: run.figures["float_top1"] for seed, run in runs.items() if "float_top1" in run.figures}
        sizes = [run.figures["packed_bytes"] for run in runs.values() if "packed_bytes" in run.figures]
        if values:
            known = spread(values)
            points.append(SweepPoint(bits=bits, bytes=sizes[0] if sizes else None, values=values, mean=known.mean,
                                     std=known.std, low=known.low, high=known.high))
    law, reason = _law(points, floats)
    return Curve(row=name, points=points, float_top1=spread(floats).mean if floats else None, law=law, no_law=reason)


def _law(points: Sequence[SweepPoint], floats: Mapping[int, float]) -> tuple[Law | None, str | None]:
    """floats: seed -> float top-1, of which those of the law's own seeds count."""
    seeds = [s for s in (points[0].values if points else {}) if all(s in p.values for p in points)]
    if len(points) < FEWEST_BITS or len(seeds) < FEWEST_SEEDS:
        return None, (f"no law: too few points ({len(points)} numbers of bits x {len(seeds)} seeds, at least "
                      f"{FEWEST_BITS} x {FEWEST_SEEDS})")
    bits, values = [p.bits for p in points], np.array([[p.values[s] for s in seeds] for p in points])  # (bits, seeds)
    mean = fit(bits, values.mean(axis=1).tolist())
    std = float(np.sqrt(values.var(axis=1, ddof=1).mean()))
    if wrong := not_a_law(mean, std):
        return None, f"no law: {wrong}"
    single = [fit(bits, of_seed.tolist()) for of_seed in values.T]
    if any(not_a_law(each, std) for each in single):
        single = []  # no interval: a seed alone has no law, so its figures mean nothing
    whole = [floats[s] - mean.a for s in seeds if s in floats]
    one_point = mean.bits_for_one_point
    assert one_point is not None
    reached = [each.bits_for_one_point or 0.0 for each in single]
    return Law(a=_estimate(mean.a, [f.a for f in single], high=HIGHEST),
               amplitude=_estimate(mean.amplitude, [f.amplitude for f in single], high=HIGHEST),
               k=_estimate(mean.k, [f.k for f in single]), rmse=mean.rmse,
               bits_for_one_point=_estimate(one_point, reached, low=2.0),
               float_gap=float(np.mean(whole)) if len(whole) == len(seeds) else None), None


def _estimate(value: float, of_seeds: Sequence[float], low: float = 0.0, high: float = float("inf")) -> Estimate:
    """The interval lies about the seeds' own mean, which need not be the value of the fit through the means.

    None where it leaves low to high, what the figure can be: so few seeds so far apart say nothing of it.
    """
    known: Spread | None = spread(dict(enumerate(of_seeds))) if of_seeds else None
    if known is None or known.low is None or known.high is None or known.low < low or known.high > high:
        return Estimate(value=value)
    return Estimate(value=value, low=known.low, high=known.high)


def _seeds(curve: Curve) -> list[int]:
    return sorted({seed for point in curve.points for seed in point.values})


def _at(points: Sequence[SweepPoint], seed: int, size: float) -> float:
    """One seed's accuracy at a size within those of its points."""
    ordered = sorted(points, key=lambda p: p.bytes or 0)
    return float(np.interp(np.log(size), [np.log(p.bytes or 1) for p in ordered], [p.values[seed] for p in ordered]))

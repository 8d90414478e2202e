"""study.json: the contract of a study's result, and how it is summed up from the runs that are finished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from toolchain.recipe.study import StudyFile
from toolchain.report.schema import Part
from toolchain.study.compare import Right, Verdict, paired_by_image, paired_by_seed, spread, verdict
from toolchain.study.figures import METRICS, Outcome
from toolchain.study.plan import Run
from toolchain.study.sweep import SweepResult, swept

SCHEMA_VERSION: Literal[1] = 1
FEW_SEEDS = 5  # fewer than these leave Student's interval several times as wide as the differences vary
WIDE_POINTS = 10.0  # an interval of a share, in points, in which a difference worth having may hide


class Failed(NamedTuple):
    """A run that ended with an error of ours; the others go on."""

    message: str
    exit_code: int


Outcomes = Mapping[tuple[str, int], Outcome | Failed]  # (row, seed) -> what is known so far


class Figure(Part):
    """One metric of one row: its value by seed, mean, sample std and 95 % interval (null for one seed)."""

    values: dict[int, float]
    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


class Difference(Part):
    """This row minus the control, paired by seed; the second interval is over the test images, for top-1 alone."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    images_low: float | None
    images_high: float | None
    verdict: Verdict


class Failure(Part):
    """A run that could not be finished, and why."""

    seed: int
    message: str
    exit_code: int


class RowResult(Part):
    """One row.

    epochs: trained on the student in all, by seed. budget_differs: not as many as the control's. split_differs: other
    train, val or test images than the control's, so image by image they cannot be compared.
    """

    name: str
    recipe: str
    set: list[str]
    engine: str
    epochs: dict[int, int]
    budget_differs: bool
    split_differs: bool
    figures: dict[str, Figure]
    versus_control: dict[str, Difference]
    failures: list[Failure]


class StudyResult(Part):
    """The whole result. metrics: the columns that at least one run has, in the study's order. set: of every row."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    control: str | None
    seeds: list[int]
    set: list[str]
    metrics: list[str]
    runs: int
    runs_done: int
    test_images: int | None
    rows: list[RowResult]
    sweep: SweepResult | None = None

    def to_json(self) -> str:
        """study.json as text; the same runs give the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def undecided(self) -> str:
        """What "no difference" means where the seeds were too few to show one; "" where none is in doubt."""
        counts = [found.n for row in self.rows for metric, found in row.versus_control.items()
                  if found.verdict == "no difference" and _wide(metric, found)]
        if not counts:
            return ""
        low, high = min(counts), max(counts)
        return (f"n = {low}{f' to {high}' if high > low else ''}: the interval over seeds is wide; \"no difference\" "
                "means undecided here.")

    @property
    def notes(self) -> list[str]:
        """How the figures are to be read."""
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed, so no spread and no interval"
        notes = [f"Mean ± sample standard deviation over {seeds}; in brackets the 95 % Student-t interval of the mean.",
                 "Top-1 is that of the engine itself on the whole test set. Time counts a shared stage in every run."]
        if self.control is not None:
            notes.append(f"Differences are to {self.control}, paired by seed, with Student's 95 % interval over seeds "
                         "and, for top-1, a paired bootstrap 95 % interval over the test images; \"no difference\" "
                         "where one of them holds 0. Each stands alone: of twenty equal rows one looks different by "
                         "chance.")
        notes += [self.undecided] * bool(self.undecided)
        top1 = [row.figures["top1"].mean / 100 for row in self.rows if "top1" in row.figures]
        if top1 and self.test_images:
            error = 100 * max(math.sqrt(p * (1 - p) / self.test_images) for p in top1)
            notes.append("Seeds show how training varies, not which images happened to be in the test set: with "
                         f"{self.test_images:,} images one top-1 has a binomial standard error of up to {error:.2f} "
                         "points.")
        if any(row.budget_differs for row in self.rows):
            notes.append(f"\"Budget differs\": the student was not trained for as many epochs as {self.control}'s, so "
                         "a difference may come from the training time alone.")
        return notes


def summed_up(file: StudyFile, runs: Sequence[Run], outcomes: Outcomes, overrides: Sequence[str] = ()) -> StudyResult:
    """The result so far. overrides: of the command line, for the record."""
    study = file.study
    finished = [outcome for outcome in outcomes.values() if isinstance(outcome, Outcome)]
    metrics = [m for m in study.metrics if any(m in outcome.figures for outcome in finished)]
    control = _by_seed(outcomes, study.control) if study.control else {}
    engines = {run.row: run.engine for run in runs}
    rows = []
    for name, row in study.rows.items():
        ours = _by_seed(outcomes, name)
        epochs = {seed: outcome.epochs for seed, outcome in ours.items()}
        failed = {seed: outcome for (row_name, seed), outcome in outcomes.items()
                  if row_name == name and isinstance(outcome, Failed)}
        rows.append(RowResult(
            name=name, recipe=row.recipe, set=list(row.set), engine=engines[name], epochs=epochs,
            budget_differs=any(seed in control and control[seed].epochs != n for seed, n in epochs.items()),
            split_differs=_other_split(ours, control),
            figures={m: _figure(m, values) for m in metrics if (values := _values(ours, m))},
            versus_control=_differences(ours, control, metrics) if name != study.control else {},
            failures=[Failure(seed=seed, **error._asdict()) for seed, error in failed.items()]))
    return StudyResult(
        name=study.name, control=study.control, seeds=list(study.seeds), set=[*study.set, *overrides], metrics=metrics,
        sweep=swept(file, outcomes), runs=len(runs), runs_done=len(finished), rows=rows,
        test_images=max((outcome.test_images for outcome in finished), default=None))


def _wide(metric: str, found: Difference) -> bool:
    """Whether the interval over seeds, which holds 0, could hide a difference."""
    if found.low is None or found.high is None or not found.low <= 0 <= found.high or found.low == found.high:
        return False
    points = METRICS[metric].unit in ("%", "points")
    return found.n < FEW_SEEDS or (points and found.high - found.low > WIDE_POINTS)


def _by_seed(outcomes: Outcomes, row: str) -> dict[int, Outcome]:
    return {seed: outcome for (name, seed), outcome in outcomes.items()
            if name == row and isinstance(outcome, Outcome)}


def _values(runs: Mapping[int, Outcome], metric: str) -> dict[int, float]:
    return {seed: run.figures[metric] for seed, run in runs.items() if metric in run.figures}


def _other_split(runs: Mapping[int, Outcome], control: Mapping[int, Outcome]) -> bool:
    return len({run.split for run in [*runs.values(), *control.values()]}) > 1 and bool(control)


def _figure(metric: str, values: dict[int, float]) -> Figure:
    found = spread(values)
    if METRICS[metric].unit == "%" and found.low is not None and found.high is not None:
        found = found._replace(low=max(found.low, 0.0), high=min(found.high, 100.0))  # Student's t knows no shares
    return Figure(values=values, **found._asdict())


def _differences(runs: Mapping[int, Outcome], control: Mapping[int, Outcome], metrics: Sequence[str]) -> dict[str, Any]:
    found = {}
    for metric in metrics:
        by_seed = paired_by_seed(_values(runs, metric), _values(control, metric))
        if not METRICS[metric].compared or by_seed is None:
            continue
        comparable = {} if _other_split(runs, control) else _right(control, metric)
        by_image = paired_by_image(_right(runs, metric), comparable)
        found[metric] = Difference(
            **by_seed._asdict(), images_low=by_image.low if by_image else None,
            images_high=by_image.high if by_image else None, verdict=verdict(by_seed, by_image))
    return found


def _right(runs: Mapping[int, Outcome], metric: str) -> dict[int, Right]:
    return {seed: run.right[metric] for seed, run in runs.items() if metric in run.right}

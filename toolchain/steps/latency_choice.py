"""The widths that latency-driven pruning keeps: proposed by the table, and kept only where an engine proves them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.engines.record import engine_name
from toolchain.errors import TrainError
from toolchain.files import write_text
from toolchain.recipe.prune import Latency
from toolchain.steps.job import ONNX_PACKAGES, Job, plain
from toolchain.steps.latency_table import export_of, latency_table, predictor
from toolchain.steps.saliency_images import saliency_batches
from toolchain.steps.timing import Clock, clock, conditions, refuse_latency, timed_ms
from toolchain.workdir import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolchain.measure.latency import Samples
    from toolchain.prune.latency import Predictor, Widths

LEAST_STEP = 0.95  # a proposal is to be at most this share of what was accepted: less drowns in noise
MORE_ROUNDS = 4

# (accepted widths, proposed ones) -> {"unpruned_ms", "accepted_ms", "measured_ms", "faster", "speedup"}: p50 of the
# three networks, and the proposed one's speed-up {value, low, high} over the accepted and over the unpruned one
Measure = Callable[["Widths", "Widths"], dict[str, Any]]


def latency_choice(job: Job, cfg: Latency, student: Stage) -> Stage:
    """The stage that holds choice.json: which units of every group go, and what proved it.

    Raises EngineError where the engine cannot be timed here, TrainError when the budget cannot be reached.
    """
    refuse_latency(cfg, job.recipe)
    table, how = latency_table(job, cfg), clock(job.recipe, cfg.engine)

    def make(folder: Path) -> str:
        found = _chosen(job, cfg, student, table, how, folder)
        write_text(folder / "choice.json", json.dumps(found, indent=1))
        latency = found["latency"]
        return (f"{latency['unpruned_ms']:.3f} -> {latency['pruned_ms']:.3f} ms "
                f"({latency['speedup']['value']:.2f}x) after {len(latency['checks'])} checks")

    section = [plain(cfg, "finetune", "self_distill"), conditions(how), job.recipe.data.image_size, job.recipe.seed,
               plain(job.recipe.export)]
    return job.work.stage(
        "latency", make, section=section, inputs=[student, job.data, table],
        rooms=["prune", "engines", "graph", "measure/latency.py", "export.py", "steps/latency_choice.py",
               "steps/saliency_images.py", "steps/timing.py"],
        packages=["torch", "torch-pruning", *ONNX_PACKAGES])


def _chosen(job: Job, cfg: Latency, student: Stage, table: Stage, how: Clock, folder: Path) -> dict[str, Any]:
    """{"removed": {group: units}, "latency": what the history says of it}."""
    from toolchain.models.store import load_model
    from toolchain.prune.groups import trace
    from toolchain.prune.latency import least_units, left_over, ties
    from toolchain.prune.saliency import saliencies

    size, model = job.recipe.data.image_size, load_model(student.folder)
    tied, full = ties(model, size)
    traced = trace(copy.deepcopy(model), size)
    scores = saliencies(traced, cfg.saliency, job.recipe.seed, batches=saliency_batches(job, cfg.saliency))
    predict = predictor(json.loads((table.folder / "table.json").read_text(encoding="utf-8")), tied, full)
    limits = Limits(full, {group: least_units(units, cfg.cap, cfg.round_to) for group, units in full.items()},
                    {group: left_over(score) for group, score in scores.items()})
    kept = folder / "checks.json"
    done = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    with TemporaryDirectory() as scratch:
        measure = network_timer(model, size, scores, how, Path(scratch), export_of(job))
        try:
            checks = search(limits, predict, cfg, measure, done, lambda found: write_text(kept, json.dumps(found)))
        except TrainError:  # on a quieter machine the same command may find more
            kept.unlink(missing_ok=True)
            raise
    kept.unlink(missing_ok=True)
    last = next(check for check in reversed(checks) if check["accepted"])
    shown = ("widths", "predicted_ms", "measured_ms", "unpruned_ms", "faster", "accepted")
    return {"removed": removed_units(scores, last["widths"]), "latency": {
        "engine": engine_name(how.engine), "budget": cfg.budget, "batch": how.batch,
        "unpruned_ms": last["unpruned_ms"], "pruned_ms": last["measured_ms"], "speedup": last["speedup"],
        "checks": [{key: check[key] for key in shown} for check in checks]}}


@dataclass(frozen=True)
class Limits:
    """Between which widths the search moves: all units of every group, the fewest it may keep, and the saliency left
    at each number of units (`prune.latency.left_over`)."""

    full: Widths
    least: Widths
    left: Mapping[str, Sequence[float]]


@dataclass
class Progress:
    """Where a search stands: the widths last accepted, their measured share of all latency, and groups given up."""

    kept: Widths
    share: float = 1.0
    banned: set[str] = field(default_factory=set)

    def follow(self, check: Mapping[str, Any]) -> None:
        """Take one check into account."""
        if check["accepted"]:
            self.kept, self.share = dict(check["widths"]), 1 / check["speedup"]["value"]
        else:
            self.banned |= {group for group, units in check["widths"].items() if units != self.kept[group]}


def search(
    limits: Limits, predict: Predictor, cfg: Latency, measure: Measure, done: Sequence[dict[str, Any]] = (),
    keep: Callable[[list[dict[str, Any]]], None] = lambda checks: None,
) -> list[dict[str, Any]]:
    """Every check on the way to `cfg.budget`, the last accepted one within it.

    The way has `cfg.checks` goals, evenly spaced on a log scale. At each the proposed network is measured beside the
    accepted one: where it is not faster by its 95 % interval its steps are taken back, and the groups that moved stay
    as they are. The prediction is scaled by what was measured last. done: checks of an interrupted search; keep: is
    given all checks after each. Raises TrainError when nothing is left to remove above the budget.
    """
    from toolchain.prune.latency import propose

    checks, at, whole = [dict(check) for check in done], Progress(dict(limits.full)), predict.ms(limits.full)
    for check in checks:
        at.follow(check)
    goals = [cfg.budget ** (number / cfg.checks) for number in range(1, cfg.checks + 1)]
    while at.share > cfg.budget:
        goal = min(LEAST_STEP * at.share, next((g for g in goals if g < LEAST_STEP * at.share), cfg.budget))
        anchor = at.share * whole / predict.ms(at.kept)
        proposed = propose(at.kept, goal * whole, predict, limits.left, limits.least, cfg.round_to, at.banned, anchor)
        if proposed == at.kept:
            raise TrainError(_out_of_reach(cfg, at, checks))
        found = measure(at.kept, proposed)
        check = {"widths": proposed, "predicted_ms": anchor * predict.ms(proposed) / whole * found["unpruned_ms"],
                 **found, "accepted": found["faster"]["low"] > 1}
        checks.append(check)
        at.follow(check)
        keep(checks)
        console.log(f"  latency: check {len(checks)}: predicted {check['predicted_ms']:.3f} ms, measured "
                    f"{check['measured_ms']:.3f} of {check['unpruned_ms']:.3f} ms"
                    + ("" if check["accepted"] else f"; not faster than {check['accepted_ms']:.3f} ms: taken back"))
    return checks


def _out_of_reach(cfg: Latency, at: Progress, checks: Sequence[Mapping[str, Any]]) -> str:
    best = next((check for check in reversed(checks) if check["accepted"]), None)
    reached = (f"{best['measured_ms']:.3f} of {best['unpruned_ms']:.3f} ms ({at.share:.2f})" if best else
               "nothing: no network was measurably faster than the unpruned one")
    banned = f" {len(at.banned)} groups were given up, as removing theirs was not measurably faster."
    return (f"prune.budget: {cfg.budget:g} of the unpruned latency is out of reach on {cfg.engine.runtime} "
            f"{cfg.engine.precision}; reached {reached} with at most {cfg.cap:g} of any group's channels gone and "
            f"multiples of {cfg.round_to} left.{banned * bool(at.banned)} Use a larger prune.budget or prune.cap, a "
            "smaller prune.round_to, or a quieter machine")


def removed_units(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> dict[str, list[int]]:
    """The least salient units of every group, so that kept[group] are left; rising."""
    from toolchain.prune.saliency import least

    return {group: least(score, len(score) - kept[group]) for group, score in scores.items()}


def network_timer(
    model: nn.Module, size: int, scores: Mapping[str, Tensor], how: Clock, folder: Path,
    export: Callable[[nn.Module, Path], None],
) -> Measure:
    """A Measure of whole networks: surgery, export, engine, and interleaved timing; files lie in `folder`.

    Where the interval holds 1 it looks again, in MORE_ROUNDS times as many rounds: noise must not end a search.
    """
    from toolchain.measure.latency import speedup
    from toolchain.prune.groups import remove
    from toolchain.runner.rounds import summary

    def file(kept: Widths) -> Path:
        path = folder / ("_".join(map(str, kept.values())) + ".onnx")
        if not path.is_file():
            export(remove(model, size, removed_units(scores, kept))[0], path)
        return path

    def measure(accepted: Widths, proposed: Widths) -> dict[str, Any]:
        full = {group: len(score) for group, score in scores.items()}
        files = {"unpruned": file(full), "accepted": file(accepted), "proposed": file(proposed)}
        if accepted == full:
            del files["accepted"]
        found = compared(timed_ms(files, how))
        if found["faster"]["low"] <= 1 <= found["faster"]["high"]:
            found = compared(timed_ms(files, replace(how, rounds=MORE_ROUNDS * how.rounds)))
        return found

    def compared(samples: Mapping[str, Samples]) -> dict[str, Any]:
        before = samples.get("accepted", samples["unpruned"])
        return {"unpruned_ms": summary(samples["unpruned"])["p50"], "accepted_ms": summary(before)["p50"],
                "measured_ms": summary(samples["proposed"])["p50"],
                "faster": speedup(before, samples["proposed"], how.seed),
                "speedup": speedup(samples["unpruned"], samples["proposed"], how.seed)}

    return measure

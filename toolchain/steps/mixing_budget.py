"""The least loss within a budget, verified on what was rebuilt: proposed from the table, checked, and proposed anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import console
from toolchain.errors import EngineError, RecipeError
from toolchain.files import write_text
from toolchain.quantize.mixed import Option, least_cost, least_loss, total
from toolchain.recipe.mixed import Budget
from toolchain.steps.mixing_table import Table
from toolchain.steps.mixing_trial import Trial, spread_evenly, without
from toolchain.steps.timing import Clock

Options = Mapping[str, Sequence[Option]]
Found = tuple[dict[str, str], bool, dict[str, Any], list[dict[str, Any]]]  # assignment, joins, budget, checks


def within_budget(cfg: Budget, trial: Trial, table: Table, how: Clock | None) -> Found:
    """The assignment of the least predicted loss that holds the budget on the rebuilt file or engine.

    how: the clock of a latency budget. Returns also the joins (True: quantized), the budget and every check, the
    accepted one with "accepted": true. Raises RecipeError (bytes) or EngineError (latency) saying what was reached.
    """
    if cfg.bytes is not None:
        return _within_bytes(cfg, trial, table)
    assert how is not None
    return _within_latency(cfg, trial, table, how)


def offered(cfg: Budget, table: Table, costs: Mapping[str, Mapping[str, float]]) -> dict[str, list[Option]]:
    """Every layer's options at these costs; a layer that the recipe fixes, or keeps float in all of them, has one."""
    return {name: [Option(precision, costs[name][precision], table.loss(name, precision) or 0.0)
                   for precision in table.able(name, cfg.precisions)] for name in costs}


def _within_bytes(cfg: Budget, trial: Trial, table: Table) -> Found:
    assert cfg.bytes is not None
    fp32, rest = trial.fp32_bytes(), trial.rest_bytes()
    limit = int(cfg.bytes * fp32) if cfg.bytes <= 1 else int(cfg.bytes)
    options, checks, spare = offered(cfg, table, table.bytes), list[dict[str, Any]](), 0
    while len(checks) < cfg.checks:
        chosen = least_loss(options, limit - rest - spare)
        if chosen is None:
            break
        tried = [_noted(chosen, joins, trial.check(chosen, joins, True), total(options, chosen)[1])
                 for joins in _placements(cfg)]
        within = [check for check in tried if check["weight_bytes"] <= limit]
        best = min(within, key=lambda check: float(check["kl_nats"]), default=None)
        checks += [{**check, "accepted": check is best} for check in tried]
        if best:
            return chosen, best["joins"] == "quantized", {"kind": "bytes", "asked": cfg.bytes, "limit": limit}, checks
        spare += min(check["weight_bytes"] for check in tried) - limit
    smallest = trial.file_bytes(least_cost(options))
    if smallest <= limit:
        raise RecipeError(f"quantize.mixed.bytes: found no file of at most {limit:,} bytes in {len(checks)} checks, "
                          f"the last of {checks[-1]['weight_bytes']:,}; use more checks, or a larger budget")
    kept = any(table.barred.get(each) for each in cfg.precisions)
    given = (", ".join(cfg.precisions) + ", layers of quantize.mixed.layers" * bool(table.fixed)
             + ", and those that int8 or int4 keeps float" * kept)
    raise RecipeError(f"quantize.mixed.bytes: {cfg.bytes:g} is {limit:,} bytes of weights, but the smallest possible "
                      f"is {smallest:,} ({smallest / fp32:.4f} of FP32's {fp32:,}) with precisions {given}; use a "
                      f"larger budget{', or offer int4' * ('int4' not in cfg.precisions)}")


def _within_latency(cfg: Budget, trial: Trial, table: Table, how: Clock) -> Found:
    assert cfg.latency is not None
    kept = trial.scratch.parent / "timings.json"
    timings = _timings(cfg, trial, table, how, kept)
    base, fp32 = timings["anchor_ms"], timings["fp32_ms"]
    options = offered(cfg, table, timings["more_ms"])
    goal, checks, best = cfg.latency * fp32, list[dict[str, Any]](), None
    while len(checks) < cfg.checks * len(_placements(cfg)):
        chosen = least_loss(options, goal - base) or least_cost(options)
        if any(check["assignment"] == chosen for check in checks):
            break
        cost, loss = total(options, chosen)
        for joins in _placements(cfg):
            found = {"predicted_ms": base + cost, **_clocked(trial, chosen, joins, how, len(checks))}
            checks.append(_noted(chosen, joins, found, loss))
            console.log(f"  mixed: check {len(checks)}: predicted {base + cost:.3f} ms, measured "
                        f"{found['latency_ms']:.3f} of {found['fp32_latency_ms']:.3f} ms")
        best = min((check for check in checks if check["share"] <= cfg.latency), default=None,
                   key=lambda check: (check["loss_nats"], check["kl_nats"]))
        here = min(checks[-len(_placements(cfg)):], key=lambda check: float(check["share"]))
        missed = [check["predicted_ms"] for check in checks if check["share"] > cfg.latency]
        goal = cfg.latency * here["predicted_ms"] / here["share"]  # what a sum over layers gets wrong, either way
        goal = min([goal, *(ms - base * 1e-6 for ms in missed if here["share"] > cfg.latency)])
    kept.unlink(missing_ok=True)  # on a quieter machine the same command may find more
    if best is None:
        fastest = min(checks, key=lambda check: float(check["share"]))
        raise EngineError(f"quantize.mixed.latency: {cfg.latency:g} of the FP32 engine's p50 is out of reach on "
                          f"{trial.engine.runtime} {trial.engine.target}; the fastest of {len(checks)} rebuilt engines "
                          f"took {fastest['latency_ms']:.3f} of {fastest['fp32_latency_ms']:.3f} ms "
                          f"({fastest['share']:.2f}): use a larger latency, more checks, other precisions (now "
                          f"{', '.join(cfg.precisions)}), or a quieter machine")
    accepted = [{**check, "accepted": check is best} for check in checks]
    budget = {"kind": "latency", "asked": cfg.latency, "limit": cfg.latency * best["fp32_latency_ms"]}
    return best["assignment"], best["joins"] == "quantized", budget, accepted


def _timings(cfg: Budget, trial: Trial, table: Table, how: Clock, kept: Path) -> dict[str, Any]:
    """{"anchor_ms", "fp32_ms", "more_ms": layer -> precision -> ms more than at the anchor}, each layer on its own.

    The anchor has every layer in INT8 where that is offered, as integers gain only next to each other. What an
    interrupted run measured lies in `kept`.
    """
    import numpy as np

    options = offered(cfg, table, {name: dict.fromkeys(of, 0.0) for name, of in table.bytes.items()})
    able = {name: [option.precision for option in some] for name, some in options.items()}
    anchor = {name: "int8" if "int8" in some else some[0] for name, some in able.items()}
    asked = {f"{name}:{precision}": without(list(able), name, precision, anchor)
             for name, some in able.items() for precision in some if precision != anchor[name]}
    whole = {f":{precision}": {name: precision if precision in able[name] else anchor[name] for name in able}
             for precision in cfg.precisions if precision != "int8"}
    done: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if "fp32_ms" not in done:
        both = trial.timed({"fp32": trial.engine_folder("fp32", None), "anchor": trial.engine_folder("anchor", anchor)},
                           how)
        done |= {"fp32_ms": float(np.median(both["fp32"])), "anchor_ms": float(np.median(both["anchor"])), "more": {}}
    left = {name: each for name, each in {**whole, **asked}.items() if name not in done["more"]}
    with console.bar("mixed: latency of each layer", len(left)) as bar:
        for name, slower in trial.timed_beside(anchor, left, how):
            done["more"][name] = slower
            write_text(kept, json.dumps(done))
            bar.advance(1, layer=name)
    more: dict[str, dict[str, float]] = {name: {anchor[name]: 0.0} for name in able}
    for precision in dict.fromkeys(each for some in able.values() for each in some):
        own = {name: done["more"][f"{name}:{precision}"] for name in able if f"{name}:{precision}" in done["more"]}
        for name, value in spread_evenly(own, done["more"].get(f":{precision}", 0.0)).items():
            more[name][precision] = value
    return {"anchor_ms": done["anchor_ms"], "fp32_ms": done["fp32_ms"], "more_ms": more}


def _clocked(trial: Trial, chosen: Mapping[str, str], joins: bool, how: Clock, number: int) -> dict[str, Any]:
    """A rebuilt engine beside the FP32 one: p50 of both, and their ratio as the median over rounds."""
    import numpy as np

    from toolchain.measure.latency import speedup

    folders = {"fp32": trial.engine_folder("fp32", None),
               "mixed": trial.engine_folder(f"check_{number}_{joins}", chosen, joins)}
    found = trial.timed(folders, how)
    return {**trial.check(chosen, joins, True), "latency_ms": float(np.median(found["mixed"])),
            "fp32_latency_ms": float(np.median(found["fp32"])),
            "share": 1 / speedup(found["fp32"], found["mixed"], how.seed)["value"]}


def _placements(cfg: Budget) -> list[bool]:
    return [True, False] if cfg.joins == "auto" else [cfg.joins == "quantized"]


def _noted(chosen: Mapping[str, str], joins: bool, found: Mapping[str, Any], loss: float) -> dict[str, Any]:
    return {"assignment": dict(chosen), "joins": "quantized" if joins else "float", "loss_nats": loss, **found}

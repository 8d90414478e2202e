"""Mixed precision in a build: the stage that gives every layer of a mixed engine its precision, and says why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.engines import backend
from toolchain.engines.record import engine_name
from toolchain.errors import RecipeError, nearest
from toolchain.files import write_text
from toolchain.recipe.load import locate
from toolchain.recipe.mixed import Adaptive, Budget, Mixed, Simple, Uniform
from toolchain.recipe.precision import Precision
from toolchain.recipe.prune import Scan
from toolchain.recipe.schema import Engine, Recipe, TorchModel
from toolchain.steps.job import ONNX_PACKAGES, Job, plain
from toolchain.steps.mixing_table import Table, barred
from toolchain.steps.mixing_trial import Trial
from toolchain.steps.timing import clock, conditions, refuse_untimed
from toolchain.workdir import Stage

RESULT = "assignment.json"
FILE = "quantize.mixed.scan.file"


def refuse_mixed(recipe: Recipe, engines: Mapping[str, Engine]) -> None:
    """Refuse a latency budget of an engine, or with an FP32 twin, that cannot be timed here. Imports no torch.

    Raises EngineError, MissingPackage.
    """
    cfg = recipe.quantize.mixed
    if isinstance(cfg, Budget) and cfg.latency is not None:
        for engine in engines.values():
            if engine.precision == "mixed":
                for timed in (engine, twin(engine)):
                    refuse_untimed("quantize.mixed.latency", "the budget", timed, recipe)


def refuse_names(job: Job) -> None:
    """Refuse a missing scan file, and layer names that the recipe's own network does not have, before it is trained.

    Raises RecipeError.
    """
    from toolchain.sensitivity.file import read_sensitivity
    from toolchain.steps.teaching import fresh_student

    if isinstance(job.recipe.quantize.mixed, (Adaptive, Budget)) and (file := job.recipe.quantize.mixed.scan.file):
        read_sensitivity(locate(file, job.base, FILE), "quantize")
    cfg, prune = job.recipe.quantize, job.recipe.prune
    asked = {"mixed.layers": tuple(cfg.mixed.layers) if cfg.mixed else (), "int8.keep_float": cfg.int8.keep_float,
             "int4.keep_float": cfg.int4.keep_float}
    split = prune is not None and prune.method == "low_rank"  # which layers become factors shows only afterwards
    if not isinstance(job.recipe.model, TorchModel) or split or not any(asked.values()):
        return
    modules = fresh_student(job, 0).named_modules()
    known = [name for name, module in modules if getattr(getattr(module, "weight", None), "ndim", 0) > 1]
    for field, names in asked.items():
        for name in names:
            if name not in known:
                raise RecipeError(f"quantize.{field}: {_unknown(name, known)}")


def start_of(engine: Engine) -> Precision:
    """The precision whose float file and ranges this engine starts from: of a mixed one int8's."""
    return "int8" if engine.precision == "mixed" else engine.precision


def twin(engine: Engine) -> Engine:
    """The FP32 engine of the same runtime and target."""
    return engine.model_copy(update={"precision": "fp32"})


def assigned(job: Job, engine: Engine, onnx: Stage, ranges: Stage | None) -> Stage:
    """assignment.json of one mixed engine: a precision for each layer, what that is predicted to lose, and what was
    measured on the rebuilt file (and, under a latency budget, on the rebuilt engine).

    onnx, ranges: what the int8 engine starts from. Raises RecipeError (unknown layer, budget of bytes that no
    assignment meets), EngineError (budget of latency out of reach).
    """
    cfg, name = job.recipe.quantize.mixed, engine_name(engine)
    assert cfg is not None and ranges is not None
    rules, int8, int4 = backend(engine.runtime).rules(engine), job.recipe.quantize.int8, job.recipe.quantize.int4
    images = cfg.scan.images if isinstance(cfg, (Adaptive, Budget)) else None  # judge, even of a scan from a file
    scan = _scan(job, cfg, onnx, ranges)
    how = clock(job.recipe, engine) if isinstance(cfg, Budget) and cfg.latency is not None else None

    def make(folder: Path) -> str:
        trial = Trial(job, engine, rules, onnx.folder / "model.onnx", ranges.folder / "ranges.json", folder)
        sensitivity = _sensitivity(scan, trial.names) if scan else None
        found = choose(cfg, trial, sensitivity, how)
        write_text(folder / RESULT, json.dumps({"schema_version": 1, "policy": cfg.policy, "engine": name, **found},
                                               indent=1) + "\n")
        trial.clear()
        return _told(found)

    timed = [conditions(how), plain(twin(engine))] if how else []
    stage = job.work.stage(
        f"assignment_{name}", make,
        section=[plain(cfg, "scan"), images, rules, plain(int8), plain(int4), job.recipe.seed, timed],
        inputs=[job.data, onnx, ranges, *([scan] if scan else [])],
        rooms=["quantize/mixed.py", "graph", "ranges.py", "steps/mixing.py", "steps/mixing_table.py",
               "steps/mixing_trial.py", "steps/mixing_budget.py", "sensitivity/images.py", "measure/fidelity.py",
               *(["engines", "measure", "steps/timing.py"] if how else [])],
        packages=[*ONNX_PACKAGES, "onnxruntime-gpu", "onnxruntime", *(backend(engine.runtime).PACKAGES if how else ())])
    job.work.publish(stage.folder / RESULT, f"engines/{name}/{RESULT}")
    return stage


def choose(cfg: Mixed, trial: Trial, sensitivity: Mapping[str, Mapping[str, float]] | None, how: Any) -> dict[str, Any]:
    """The content of assignment.json but for its names. sensitivity: layer -> {"int8", "int4"} KL in nats.

    how: the clock of a latency budget. Raises RecipeError, EngineError, OnnxError.
    """
    from toolchain.quantize.mixed import TERCILES, first_and_last, terciles
    from toolchain.steps.mixing_budget import within_budget

    for name in cfg.layers:
        if name not in trial.names:
            raise RecipeError(f"quantize.mixed.layers: {_unknown(name, trial.names)}")
    section, offered = trial.job.recipe.quantize, _offered(cfg)
    table = Table(sensitivity, trial.layer_bytes(), cfg.layers, barred(list(trial.names), section.int8, section.int4),
                  trial.small, trial.rest_float(offered))
    checks: list[dict[str, Any]] = []
    budget, joins = None, cfg.joins == "quantized"
    if isinstance(cfg, Budget):
        chosen, joins, budget, checks = within_budget(cfg, trial, table, how)
    elif isinstance(cfg, Uniform):
        chosen = {name: table.able(name, [cfg.precision])[0] for name in trial.names}
    elif isinstance(cfg, Simple):
        chosen = {name: table.able(name, [kind])[0] for name, kind in first_and_last(list(trial.names)).items()}
    else:
        assert isinstance(cfg, Adaptive) and sensitivity
        thirds = terciles({name: kl["int4"] for name, kl in sensitivity.items()})
        chosen = {name: table.able(name, TERCILES[TERCILES.index(kind)::-1])[0] for name, kind in thirds.items()}
    accepted = next((check for check in checks if check["accepted"]), None)
    last = accepted or trial.check(chosen, joins, judge=sensitivity is not None)
    loss = {name: table.loss(name, chosen[name]) for name in trial.names}
    layers = [{"name": name, "precision": chosen[name], "loss_nats": loss[name],
               "bytes": table.bytes[name][chosen[name]], "parameters": trial.names[name],
               "fixed": name in cfg.layers or any(name in table.barred.get(each, ()) for each in offered)}
              for name in trial.names]
    predicted: dict[str, Any] = {
        "loss_nats": sum(value or 0.0 for value in loss.values()) if sensitivity else None,
        "weight_bytes": trial.rest_bytes() + sum(table.bytes[name][chosen[name]] for name in trial.names),
        **({"latency_ms": last["predicted_ms"]} if "predicted_ms" in last else {})}
    measured: dict[str, Any] = {
        "weight_bytes": last["weight_bytes"], "fp32_weight_bytes": trial.fp32_bytes(),
        **{key: last[key] for key in ("kl_nats", "latency_ms", "fp32_latency_ms", "share") if key in last}}
    return {"joins": "quantized" if joins else "float", "layers": layers, "predicted": predicted, "measured": measured,
            "budget": budget, "checks": checks}


def _offered(cfg: Mixed) -> tuple[str, ...]:
    """What the policy may give a layer, but for those that the recipe names."""
    if isinstance(cfg, Uniform):
        return (cfg.precision,)
    if isinstance(cfg, Budget):
        return cfg.precisions
    return ("fp16", "int8") if isinstance(cfg, Simple) else ("fp16", "int8", "int4")


def _scan(job: Job, cfg: Mixed, onnx: Stage, ranges: Stage) -> Stage | None:
    """The scan that the policy decides by; one for all mixed engines. Raises RecipeError for a file of another kind."""
    from toolchain.steps.scanning import given, scanned_quantized

    if not isinstance(cfg, (Adaptive, Budget)):
        return None
    made = next((stage for stage in job.work.stages if stage.name == "sensitivity_quantize"), None)
    if made:
        return made
    if cfg.scan.file is not None:
        return given(job, onnx, "quantize", locate(cfg.scan.file, job.base, FILE))
    return scanned_quantized(job, onnx, ranges, Scan(images=cfg.scan.images))


def _sensitivity(scan: Stage, names: Sequence[str] | Mapping[str, int]) -> dict[str, dict[str, float]]:
    """layer -> {"int8": nats, "int4": nats}. Raises RecipeError when the scan is of another network."""
    from toolchain.sensitivity.file import read_sensitivity

    found = read_sensitivity(scan.folder / "sensitivity.json", "quantize")
    scanned = {layer.name: {str(point.precision): point.kl_nats for point in layer.points} for layer in found.layers}
    if wrong := [name for name in names if set(scanned.get(name, ())) != {"int8", "int4"}]:
        raise RecipeError(f"{FILE}: lacks layer {wrong[0]} at int8 and int4, so it is a scan of another network; scan "
                          "this one with `toolchain sensitivity RECIPE --of quantize`, or leave the file out")
    return {name: scanned[name] for name in names}


def _unknown(name: str, known: Sequence[str] | Mapping[str, int]) -> str:
    return f"found '{name}', expected names of layers ({', '.join(known)}){nearest(name, known)}"


def _told(found: Mapping[str, Any]) -> str:
    kinds = [row["precision"] for row in found["layers"]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("fp32", "fp16", "int8", "int8_weight_only", "int4")
                       if kind in kinds)
    measured = found["measured"]
    share = f", {measured['share']:.2f} of FP32's latency" if "share" in measured else ""
    return f"{counts}; {measured['weight_bytes']:,} of {measured['fp32_weight_bytes']:,} bytes{share}"

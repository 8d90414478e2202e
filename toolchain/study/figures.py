"""What one finished build says: its figures by metric name, read from its report and its stages' files."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolchain.report.schema import EngineResult, Report, TrainingRun
from toolchain.study.compare import Right

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # BatchNorm's statistics are stored, not trained
STUDENT_RUNS = ("train", "prune", "half_finetune", "qat_int4", "qat_int8")  # the student's own runs


WEIGHT_ONLY_FIRST = ("int8_weight_only", "int4", "int8", "fp32")  # int8 quantizes activations too


class Metric(NamedTuple):
    """How a figure is shown. compared: whether its difference to the control is worth a column."""

    title: str
    unit: str
    decimals: int
    compared: bool = True


METRICS: dict[str, Metric] = {
    "top1": Metric("Top-1", "%", 2),
    "int8_top1": Metric("INT8 top-1", "%", 2),
    "kl": Metric("KL to teacher", "nats", 4),
    "js": Metric("JS to teacher", "nats", 4),
    "agreement": Metric("Agreement", "%", 2),
    "gradcam": Metric("Centred cosine", "", 3),
    "jitter_top1": Metric("Jittered top-1", "%", 2),
    "jitter_drop": Metric("Drop by jitter", "points", 2),
    "val_top1": Metric("Val top-1", "%", 2),
    "teacher_top1": Metric("Teacher top-1", "%", 2, compared=False),
    "sparsity": Metric("Zero weights", "%", 2, compared=False),
    "parameters": Metric("Parameters", "", 0, compared=False),
    "macs": Metric("MACs", "", 0, compared=False),
    "latency_ms": Metric("p50 latency", "ms", 3, compared=False),
    "speedup_vs_unpruned": Metric("Against unpruned", "×", 2, compared=False),
    "engine_bytes": Metric("Engine file", "bytes", 0, compared=False),
    "deflate_bytes": Metric("Deflated", "bytes", 0, compared=False),
    "float_top1": Metric("Float top-1", "%", 2, compared=False),
    "packed_bytes": Metric("Packed weights", "bytes", 0, compared=False),
    "teacher_parameters": Metric("Teacher parameters", "", 0, compared=False),
    "train_seconds": Metric("Training", "s", 1, compared=False),
    "seconds": Metric("Whole build", "s", 1, compared=False),
}


class Outcome(NamedTuple):
    """One finished run.

    figures: metric -> value, without those the build has not. right: top-1 metric -> answers image by image. epochs:
    the student's, in all. split: digest of the dataset's split, which two runs must share to be compared.
    """

    figures: dict[str, float]
    right: dict[str, Right]
    epochs: int
    test_images: int
    split: str


def judged_engine(names: Mapping[str, Any] | list[str], asked: str | None) -> str | None:
    """The engine whose top-1 counts: the one asked for, else the first fp32 one of onnxruntime; None: not there."""
    if asked is not None:
        return asked if asked in names else None
    return next((name for name in names if name.startswith("fp32.onnxruntime.")), None)


def coded_engine(names: Iterable[str], precisions: Collection[str]) -> str | None:
    """Of these engines the one that holds GPFQ's codes: with float activations where there is one; None: there is none.

    precisions: those that hold the codes (quantize.precisions of the recipe).
    """
    held = [precision for precision in WEIGHT_ONLY_FIRST if precision in precisions]
    return next((name for precision in held for name in names if name.startswith(f"{precision}.onnxruntime.")), None)


def read_outcome(report: Report, folders: Mapping[str, Path], engine: str) -> Outcome:
    """The figures of one finished build.

    folders: stage name -> its folder. engine: name of the engine that is judged. `seconds` counts every stage once,
    the teacher's too, whether this build made it or found it in the shared cache; `train_seconds` the student's runs.
    """
    figures: dict[str, float | None] = {
        "top1": _top1(report, engine), "int8_top1": _top1(report, _int8(report)),
        "parameters": _parameters(folders, *reversed(STUDENT_RUNS)),
        "teacher_parameters": _parameters(folders, "teacher"),
        "seconds": sum(stage.seconds or 0.0 for stage in report.stages),
        **_pruning(report), "macs": _macs(folders), **_engine(report, engine),
        "float_top1": _float_top1(report),
        "packed_bytes": _packed(report, engine)}
    runs = [run for run in report.training if run.title in STUDENT_RUNS]
    epochs = [epoch for run in runs for epoch in run.epochs]
    if epochs:
        figures["train_seconds"] = sum(epoch.seconds or 0.0 for epoch in epochs)
    if runs:
        figures["val_top1"] = _val_top1(runs[-1], folders.get(runs[-1].title), report.recipe)
    if "fidelity" in folders and (folders["fidelity"] / "fidelity.json").is_file():
        figures |= _fidelity(json.loads((folders["fidelity"] / "fidelity.json").read_text(encoding="utf-8")), engine)
    known = {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}
    right = _right(folders["measure"] / "predictions.npz", {"top1": engine, "int8_top1": _int8(report)})
    return Outcome(known, right, len(epochs), report.data.test, report.data.split_sha256)


def _pruning(report: Report) -> dict[str, float | None]:
    """How many of the weights of convolutions and linear layers are zero; 0 where the recipe prunes nothing."""
    after = report.pruning.after if report.pruning else None
    if after is None:
        return {"sparsity": None if report.recipe.get("prune") else 0.0}
    return {"sparsity": 100 * after.zeros / after.weights if after.weights else None}


def _macs(folders: Mapping[str, Path]) -> int | None:
    """Multiply-accumulates per image of the layers with stored weights, as an ONNX file's own record has them."""
    path = next((folder / "info.json" for name, folder in folders.items()
                 if name.startswith("onnx_") and not name.endswith("_unpruned")), None)
    if path is None or not path.is_file():
        return None
    macs = [layer.get("macs") for layer in json.loads(path.read_text(encoding="utf-8")).get("layers", [])]
    return sum(macs) if macs and None not in macs else None


def _engine(report: Report, name: str) -> dict[str, float | None]:
    """Latency and size of the judged engine. A latency compares only with those of the same machine and hour."""
    found = next((e for e in report.engines if e.name == name), None)
    if found is None:
        return {}
    return {"latency_ms": found.latency_ms.p50 if found.latency_ms else None,
            "speedup_vs_unpruned": found.speedup_vs_unpruned.value if found.speedup_vs_unpruned else None,
            "engine_bytes": found.engine_bytes, "deflate_bytes": found.deflate_bytes}


def _float_top1(report: Report) -> float | None:
    """Top-1 of the plain FP32 engine; None where that one holds GPFQ's codes as floats."""
    name = judged_engine([e.name for e in report.engines], None)
    stored = report.quantization.storage if report.quantization else []
    return None if any(s.name == name and s.packed_bytes is not None for s in stored) else _top1(report, name)


def _packed(report: Report, name: str) -> int | None:
    """All that the judged engine's file stores, GPFQ's codes at their own number of bits."""
    stored = next((s for s in report.quantization.storage if s.name == name), None) if report.quantization else None
    if stored is None:
        return None
    return stored.payload_bytes if stored.packed_bytes is None else stored.packed_bytes


def _val_top1(run: TrainingRun, folder: Path | None, recipe: Mapping[str, Any]) -> float | None:
    """Val top-1 of the network that the student's last run left: the best peer's, the best epoch's or the last's."""
    taught = run.taught
    if taught and taught.peers_val_top1 and taught.best is not None:
        return taught.peers_val_top1[taught.best]
    values = [epoch.val_top1_percent for epoch in run.epochs][-_epochs_of_last_round(folder):]
    if not _stops_early(run.title, recipe):
        return values[-1] if values else None
    return max((value for value in values if value is not None), default=None)


def _stops_early(title: str, recipe: Mapping[str, Any]) -> bool:
    """Whether this run kept its best epoch: `early_stopping` of the section that it was trained by."""
    prune, quantize = recipe.get("prune") or {}, recipe.get("quantize") or {}
    own = prune.get("finetune") if title == "prune" else quantize.get("train") if title != "train" else None
    return bool((own or recipe.get("train") or {}).get("early_stopping"))  # a lottery's rounds repeat `train`


def _epochs_of_last_round(folder: Path | None) -> int:
    """How many of a run's last epochs are of the round that its network comes from; 0: all of them."""
    path = folder / "history.json" if folder else None
    rounds = [epoch.get("round") for epoch in json.loads(path.read_text("utf-8"))] if path and path.is_file() else []
    return rounds.count(rounds[-1]) if rounds else 0


def _right(path: Path, engines: Mapping[str, str | None]) -> dict[str, Right]:
    """Metric -> which test images its engine answered rightly; without engines that could not run here."""
    with np.load(path, allow_pickle=False) as saved:
        return {metric: saved[name][:, 0] == saved["labels"] for metric, name in engines.items()
                if name is not None and name in saved}


def _top1(report: Report, name: str | None) -> float | None:
    return next((e.top1_percent for e in report.engines if e.name == name), None)


def _int8(report: Report) -> str | None:
    """The INT8 engine that goes with the study: ONNX Runtime's, else the first that was measured."""
    measured: list[EngineResult] = [e for e in report.engines if e.precision == "int8" and e.top1_percent is not None]
    ours = [e for e in measured if e.runtime == "onnxruntime"]
    return next((e.name for e in [*ours, *measured]), None)


def _fidelity(content: Mapping[str, Any], engine: str) -> dict[str, float | None]:
    """What fidelity.json says of `engine`: how near the student came to its teacher, in answers and in what it sees."""
    ours = _named(content.get("engines"), engine)
    jitter = _named((content.get("jitter") or {}).get("engines"), engine)
    return {"teacher_top1": (content.get("teacher") or {}).get("top1_percent"), "kl": _value(ours.get("kl_nats")),
            "js": _value(ours.get("js_nats")), "agreement": _value(ours.get("agreement_percent")),
            "gradcam": _value((content.get("gradcam") or {}).get("centred_cosine")),
            "jitter_top1": jitter.get("top1_percent"), "jitter_drop": _value(jitter.get("drop"))}


def _named(records: Any, name: str) -> Mapping[str, Any]:
    return next((record for record in records or [] if record.get("name") == name), {})


def _value(figure: Any) -> float | None:
    """A plain number, or the `value` of {value, low, high}."""
    return figure.get("value") if isinstance(figure, Mapping) else figure


def _parameters(folders: Mapping[str, Path], *stages: str) -> int | None:
    """Trained numbers in the first of these stages' models, counted in the header of its safetensors file."""
    path = next((folders[s] / "model.safetensors" for s in stages if s in folders), None)
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items()
               if name != "__metadata__" and not name.endswith(BUFFERS))

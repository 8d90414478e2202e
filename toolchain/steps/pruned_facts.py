"""What pruning changed: widths, weights, cost and where the network looks; and its zeros as the files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.errors import TrainError
from toolchain.files import write_text
from toolchain.recipe.prune import Lottery, Magnitude, Sparse24
from toolchain.steps.job import ONNX_PACKAGES, Job
from toolchain.workdir import Stage

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, nn

    from toolchain.data import Dataset
    from toolchain.measure.storage import StoredWeight

BINS = 64
SHEET = "pruned_gradcam.png"
SHEET_IMAGES = 8
BETWEEN = ("DequantizeLinear", "Cast", "Reshape", "Transpose", "Identity")  # from a stored weight to its layer
UNSTRUCTURED = (Magnitude, Lottery, Sparse24)


def pruned_facts(job: Job, before: Stage, after: Stage) -> Stage:
    """pruned_facts.json and the picture sheet: the student as it was trained, beside what pruning made of it."""
    cfg, size, seed = job.recipe.prune, job.recipe.data.image_size, job.recipe.seed
    images = job.recipe.measure.gradcam_images
    assert cfg is not None

    def make(folder: Path) -> str:
        from toolchain.models.store import load_architecture, load_model

        old, new, data = load_model(before.folder), load_model(after.folder), job.dataset()
        history = load_architecture(after.folder)["pruned"]
        facts = network_facts(old, new, size)
        facts["before"]["val_top1_percent"] = _val_top1(job, before.folder, old)
        rounds = rounds_of(history, facts["before"]["parameters"])
        facts["after"]["val_top1_percent"] = rounds[-1]["val_top1_percent"] if rounds else None
        maps, reason = _maps(folder / SHEET, old, new, data, images, seed) if images else (
            None, "measure.gradcam_images is 0")
        write_text(folder / "pruned_facts.json", json.dumps({
            "method": cfg.method, "unstructured": isinstance(cfg, UNSTRUCTURED), **facts, "rounds": rounds,
            **choice_of(history), "epochs": epochs_of(after.folder, history),
            "rewound": isinstance(cfg, Lottery) and cfg.rewind == "weights", "gradcam": maps, "gradcam_reason": reason,
            "gradcam_images": min(images, len(data.test)) if maps else 0}, indent=1) + "\n")
        return f"{facts['before']['parameters']:,} -> {facts['after']['parameters']:,} parameters"

    return job.work.stage(
        "pruned_facts", make, section=[images, size, seed], inputs=[job.data, before, after],
        rooms=["steps/pruned_facts.py", "prune", "gradcam", "models", "data", "measure/statistics.py"],
        packages=["torch", "torch-pruning"])


def network_facts(before: nn.Module, after: nn.Module, image_size: int) -> dict[str, Any]:
    """{"before", "after": parameters, macs, weights, zeros; "layers": [...]}, as report/pruned.py describes them.

    A layer of `before` that `after` has not was factorized: its factors are the layers within a module of its name.
    """
    from toolchain.prune.cost import cost
    from toolchain.prune.zeros import prunable

    weights, left = prunable(before), prunable(after)
    costs = cost(before, image_size), cost(after, image_size)
    layers = []
    for name, weight in weights.items():
        parts = {name: left[name]} if name in left else {n: w for n, w in left.items() if n.startswith(f"{name}.")}
        layers.append({
            "name": name, "shape": list(weight.shape), "weights": weight.numel(), "zeros": _zeros(weight),
            "macs": costs[0].layers[name],
            "after": [{"name": part, "shape": list(tensor.shape)} for part, tensor in parts.items()],
            "weights_after": sum(tensor.numel() for tensor in parts.values()),
            "zeros_after": sum(map(_zeros, parts.values())), "macs_after": sum(costs[1].layers[part] for part in parts),
            "histogram": histogram(weight, left[name]) if name in left else None})
    totals = [{"parameters": found.parameters, "macs": found.macs,
               "weights": sum(tensor.numel() for tensor in tensors.values()),
               "zeros": sum(map(_zeros, tensors.values()))}
              for found, tensors in zip(costs, (weights, left), strict=True)]
    return {"before": totals[0], "after": totals[1], "layers": layers}


def histogram(before: Tensor, after: Tensor) -> dict[str, Any]:
    """Both tensors' values that are not zero in BINS bins over [-limit, limit], the larger of both magnitudes."""
    arrays = [tensor.detach().cpu().double().numpy().ravel() for tensor in (before, after)]
    limit = float(max(np.abs(array).max(initial=0.0) for array in arrays))
    counts = [np.histogram(array[array != 0], BINS, (-limit, limit))[0] if limit else np.zeros(BINS, int)
              for array in arrays]
    return {"limit": limit, "before": counts[0].tolist(), "after": counts[1].tolist()}


def rounds_of(history: Mapping[str, Any], parameters: int) -> list[dict[str, Any]]:
    """The history's rounds with the share that is removed: of the weights (zeros), or of the `parameters` before."""
    return [{"round": found["round"], "epochs": found["epochs"], "val_top1_percent": found["val_top1"],
             "removed": found["sparsity_prunable"] if "sparsity_prunable" in found
             else max(0.0, 1 - found["parameters"] / parameters),
             "parameters": found.get("parameters"), "macs": found.get("macs")} for found in history.get("rounds", [])]


def epochs_of(folder: Path, history: Mapping[str, Any]) -> int:
    """Epochs of training in all rounds, and of that before them (group lasso), which history.json calls round 0."""
    path = folder / "history.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return sum(found["epochs"] for found in history.get("rounds", [])) + sum(e.get("round") == 0 for e in before)


def choice_of(history: Mapping[str, Any]) -> dict[str, Any]:
    """{"decided", "checks", "factorizing", "skipped"}: what decided and about what, as report/pruned.py describes it.

    Latencies are in milliseconds: of whole networks on the way to a budget, of single layers for low rank.
    """
    latency = history.get("latency") or {}
    decided = {key: latency.get(key) for key in ("engine", "batch", "budget", "speedup")} | {
        "unpruned_ms": latency.get("unpruned_ms", latency.get("before_p50_ms")),
        "pruned_ms": latency.get("pruned_ms", latency.get("after_p50_ms"))}
    checks = [{key: found.get(key) for key in ("predicted_ms", "measured_ms", "unpruned_ms", "accepted")}
              for found in latency.get("checks", [])]
    low_rank = history.get("method") == "low_rank"
    factorizing = [{"name": name, "ranks": found["ranks"], "speedup": found.get("ratio"), "accepted": key == "layers"}
                   for key in ("layers", "rejected") if low_rank for name, found in history.get(key, {}).items()]
    skipped = list(history.get("skipped", {})) if history.get("method") == "sparse24" else []
    return {"decided": decided if latency else None, "checks": checks, "factorizing": factorizing, "skipped": skipped}


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(weight.count_nonzero())


def _val_top1(job: Job, folder: Path, model: nn.Module) -> float:
    """Of the network that its training left in `folder`: of mutual learning, the best peer's."""
    from toolchain.steps.fitting import val_top1

    taught, history = folder / "taught.json", folder / "history.json"
    lesson = json.loads(taught.read_text(encoding="utf-8")) if taught.is_file() else {}
    if lesson.get("peers_val_top1"):
        return lesson["peers_val_top1"][lesson["best"]]
    epochs = json.loads(history.read_text(encoding="utf-8")) if history.is_file() else []
    return val_top1(model, job.dataset(), job.recipe.train, epochs)


def _maps(
    path: Path, before: nn.Module, after: nn.Module, data: Dataset, count: int, seed: int
) -> tuple[dict[str, Any] | None, str | None]:
    """Grad-CAM of both on `count` test images spread over the whole set: figures, or why there are none."""
    from toolchain import console
    from toolchain.data.loader import eval_batches
    from toolchain.gradcam.maps import default_layer
    from toolchain.gradcam.pictures import draw_networks
    from toolchain.gradcam.similarity import compare_maps, random_twin, summary
    from toolchain.measure.statistics import paired_interval

    size, test = data.preprocess.image_size, data.test
    rows = np.unique(np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(np.int64))
    some = replace(test, labels=test.labels[rows], rows=test.rows[rows])
    try:
        layers = default_layer(after, size), default_layer(before, size)
        with console.bar("gradcam", len(some)) as bar:
            found = compare_maps(after, before, eval_batches(some, data.preprocess, 64), student_layer=layers[0],
                                 teacher_layer=layers[1], control=random_twin(after, seed), advance=bar.advance)
        draw_networks(path, {"unpruned": (before, layers[1]), "pruned": (after, layers[0])}, test, data.preprocess,
                      data.classes, SHEET_IMAGES)
    except TrainError as error:
        return None, str(error)
    return summary(found, *layers, lambda values: paired_interval(values, seed)) | {"sheet": SHEET}, None


def packed_weights(job: Job, models: Mapping[str, Stage]) -> Stage | None:
    """packed.json: each engine's weights with their zeros packed; None where pruning leaves no single zeros.

    models: engine name -> the stage of its ONNX file.
    """
    if not isinstance(job.recipe.prune, UNSTRUCTURED):
        return None

    def make(folder: Path) -> str:
        from toolchain.measure.storage import packed

        found = {}
        for name, stage in models.items():
            info = json.loads((stage.folder / "info.json").read_text(encoding="utf-8"))
            weights = stored_weights(stage.folder / "model.onnx")
            found[name] = packed(weights, info["weight_bytes"]) | {"weights": [asdict(weight) for weight in weights]}
        write_text(folder / "packed.json", json.dumps(found, indent=1) + "\n")
        return f"{len(found)} engines"

    return job.work.stage("packed", make, section=sorted(models), inputs=list(models.values()),
                          rooms=["steps/pruned_facts.py", "measure/storage.py"], packages=ONNX_PACKAGES)


def stored_weights(path: Path) -> list[StoredWeight]:
    """The weights of every Conv, Gemm and MatMul as the ONNX file stores them, once each. Raises OnnxError."""
    from toolchain.graph.onnx_file import read_onnx

    found: dict[str, StoredWeight] = {}
    for node in read_onnx(path).graph:
        if node.op_type in ("Conv", "Gemm", "MatMul") and (stored := _stored(node.inputs[1])) is not None:
            found.setdefault(stored.name, stored)
    return list(found.values())


def _stored(value: ir.Value | None) -> StoredWeight | None:
    """The initializer that a layer's weight input comes from, through what converts it."""
    from toolchain.measure.storage import StoredWeight

    while value is not None and (node := value.producer()) is not None and node.op_type in BETWEEN:
        value = node.inputs[0]
    if value is None or value.const_value is None:
        return None
    tensor = value.const_value
    array = np.asarray(tensor.numpy())
    nonzero = array.astype(np.float32) != 0
    return StoredWeight(str(value.name), array.size, int(nonzero.sum()), round(8 * tensor.dtype.itemsize),
                        _is_two_of_four(nonzero))


def _is_two_of_four(nonzero: np.ndarray) -> bool:
    """Whether each four along axis 1 of (K, C, ...) hold at most two; a Gemm's weight may be transposed, (C, K)."""
    def holds(array: np.ndarray) -> bool:
        if array.shape[1] % 4:
            return False
        fours = array.reshape(array.shape[0], array.shape[1] // 4, 4, -1)
        return bool(fours.sum(axis=2).max() <= 2)

    return nonzero.ndim > 1 and (holds(nonzero) or nonzero.ndim == 2 and holds(nonzero.T))

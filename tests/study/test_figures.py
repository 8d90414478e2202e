"""What is read out of a finished build: made-up stages with numbers known beforehand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from toolchain.report.schema import Report
from toolchain.study.figures import METRICS, _stops_early, judged_engine, read_outcome

FP32, INT8, OTHER = "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86", "int8.openvino.cpu_x86"
FIDELITY = {
    "teacher": {"name": "teacher", "top1_percent": 97.5},
    "engines": [{"name": INT8, "top1_percent": 1.0, "kl_nats": {"value": 9.0}},
                {"name": FP32, "top1_percent": 75.0, "kl_nats": {"value": 0.25, "low": 0.2, "high": 0.3}, "js_nats": 0.06,
                 "agreement_percent": {"value": 80.5, "low": 70.0, "high": 90.0}}],
    "gradcam": {"centred_cosine": {"value": 0.5, "low": 0.4, "high": 0.6}},
    "jitter": {"teacher_top1_percent": 90.0,
               "engines": [{"name": FP32, "top1_percent": 70.0, "drop": {"value": 5.0, "low": 4.0, "high": 6.0}}]},
}


def engine(name: str, top1: float | None) -> dict[str, Any]:
    precision, runtime, target = name.split(".")
    reason = None if top1 is not None else "no GPU"
    return {"name": name, "precision": precision, "runtime": runtime, "target": target, "measured": top1 is not None,
            "reason": reason, "top1_percent": top1}


def report() -> Report:
    epochs = [{"epoch": i, "loss": 1.0, "val_top1_percent": 60.0 + i, "seconds": 2.0} for i in (1, 2, 3)]
    return Report.model_validate({
        "recipe": {"name": "made_up"}, "environment": {},
        "data": {"name": "d", "classes": ["a", "b"], "train": 9, "val": 3, "test": 4, "split_sha256": "ab" * 32},
        "stages": [{"name": "teacher", "key": "1", "cached": True, "seconds": 30.0},
                   {"name": "train", "key": "2", "cached": False, "seconds": 7.0}],
        "engines": [engine(OTHER, 25.0), engine(FP32, 75.0), engine(INT8, 50.0)],
        "training": [{"title": "teacher", "epochs": epochs * 3}, {"title": "train", "epochs": epochs},
                     {"title": "prune", "epochs": epochs[:1]}]})


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("teacher", "train", "prune", "measure", "fidelity")}
    for folder in made.values():
        folder.mkdir()
    batch_norm = {"bn.weight": np.zeros(4), "bn.running_mean": np.zeros(4), "bn.num_batches_tracked": np.zeros(1)}
    save_file({"conv": np.zeros((4, 3, 3, 3)), **batch_norm}, made["teacher"] / "model.safetensors")
    save_file({"conv": np.zeros((4, 3, 3, 3))}, made["train"] / "model.safetensors")
    save_file({"conv": np.zeros((2, 3, 3, 3))}, made["prune"] / "model.safetensors")
    labels = np.array([0, 1, 0, 1])
    np.savez(made["measure"] / "predictions.npz", labels=labels, **{
        FP32: np.array([[0, 1], [1, 0], [0, 1], [0, 1]]), INT8: np.array([[0, 1], [0, 1], [0, 1], [0, 1]])})
    (made["fidelity"] / "fidelity.json").write_text(json.dumps(FIDELITY))
    return made


def test_every_figure_of_a_distilled_and_pruned_build_is_found(folders: dict[str, Path]) -> None:
    outcome = read_outcome(report(), folders, FP32)
    assert outcome.figures == {
        "top1": 75.0, "int8_top1": 50.0, "kl": 0.25, "js": 0.06, "agreement": 80.5, "gradcam": 0.5, "jitter_top1": 70.0,
        "jitter_drop": 5.0, "val_top1": 61.0, "teacher_top1": 97.5, "parameters": 54, "teacher_parameters": 112,
        "train_seconds": 8.0, "seconds": 37.0, "sparsity": 0.0, "float_top1": 75.0}  # 2*3*3*3; 4*3*3*3 + BatchNorm's 4; 4 epochs of 2 s; 30 + 7
    assert (outcome.epochs, outcome.test_images) == (4, 4)
    assert outcome.right["top1"].tolist() == [True, True, True, False]
    assert outcome.right["int8_top1"].tolist() == [True, False, True, False]


def test_what_pruning_studies_compare_is_read_from_the_judged_engine(folders: dict[str, Path], tmp_path: Path) -> None:
    latency = {"p50": 2.5, "p95": 3.0, "p99": 3.0, "mean": 2.6, "std": 0.1, "n": 9}
    judged = engine(FP32, 75.0) | {"latency_ms": latency, "speedup_vs_unpruned": {"value": 2.25}, "engine_bytes": 4000, "deflate_bytes": 1500}
    counts = {"parameters": 50, "macs": 700, "weights": 40, "zeros": 0}
    content = report().model_dump() | {"engines": [judged], "recipe": {"prune": {"method": "magnitude"}}, "pruning": {
        "method": "magnitude", "unstructured": True, "before": counts, "after": counts | {"zeros": 28}, "layers": []}}
    for name, macs in (("onnx_int8_cpu_x86", 40), ("onnx_fp32_cpu_x86_unpruned", 9000)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "info.json").write_text(json.dumps({"layers": [{"macs": macs}, {"macs": 2}]}))
    figures = read_outcome(Report.model_validate(content), folders, FP32).figures
    names = ("sparsity", "macs", "latency_ms", "speedup_vs_unpruned", "engine_bytes", "deflate_bytes")
    assert [figures[name] for name in names] == [70.0, 42, 2.5, 2.25, 4000, 1500]  # 28 of 40 weights are zero


def val_top1(folders: dict[str, Path], recipe: dict[str, Any], **train: Any) -> float | None:
    """Of a build whose only run had 60, 80 and 70 %."""
    epochs = [{"epoch": i, "val_top1_percent": top1} for i, top1 in enumerate((60.0, 80.0, 70.0), 1)]
    content = report().model_dump() | {"recipe": recipe, "training": [{"title": "train", "epochs": epochs, **train}]}
    return read_outcome(Report.model_validate(content), folders, FP32).figures.get("val_top1")


def test_val_top1_is_that_of_the_epoch_that_was_kept(folders: dict[str, Path]) -> None:
    assert val_top1(folders, {"train": {"early_stopping": None}}) == 70.0
    assert val_top1(folders, {"train": {"early_stopping": 2}}) == 80.0


def test_val_top1_of_mutual_learning_is_that_of_the_peer_that_became_the_student(folders: dict[str, Path]) -> None:
    peers = {"method": "mutual", "peers_val_top1": [70.0, 75.0], "mean": 72.5, "best": 1}
    assert val_top1(folders, {"train": {"early_stopping": None}}, taught=peers) == 75.0


def test_val_top1_after_rounds_is_that_of_the_last_round(folders: dict[str, Path]) -> None:
    (folders["train"] / "history.json").write_text(json.dumps([{"round": 1}, {"round": 1}, {"round": 2}]))
    assert val_top1(folders, {"train": {"early_stopping": 2}}) == 70.0  # 80 was reached with more weights


def test_early_stopping_of_fine_tuning_is_not_that_of_training() -> None:
    recipe = {"train": {"early_stopping": 3}, "prune": {"finetune": {"early_stopping": None}},
              "quantize": {"train": {"early_stopping": 2}}}
    assert [_stops_early(title, recipe) for title in ("train", "prune", "qat_int8")] == [True, False, True]
    assert _stops_early("prune", {"train": {"early_stopping": 3}, "prune": {"method": "lottery"}})


def test_a_cosine_is_called_what_it_is() -> None:
    assert METRICS["gradcam"].title == "Centred cosine"  # of the two that fidelity.json has, this one is read


def test_what_a_build_has_not_is_left_out(folders: dict[str, Path]) -> None:
    for name in ("teacher", "fidelity", "prune"):
        del folders[name]
    assert not {"kl", "agreement", "teacher_top1", "teacher_parameters"} & set(read_outcome(report(), folders, FP32).figures)


@pytest.mark.parametrize("part", ["gradcam", "jitter"])
def test_a_part_of_fidelity_that_is_null_is_left_out(folders: dict[str, Path], part: str) -> None:
    (folders["fidelity"] / "fidelity.json").write_text(json.dumps({**FIDELITY, part: None}))
    figures = read_outcome(report(), folders, FP32).figures
    assert not [name for name in figures if name.startswith(part)] and figures["kl"] == 0.25


def test_the_judged_engine_is_fp32_of_onnxruntime_unless_the_study_names_another() -> None:
    assert judged_engine([OTHER, INT8, FP32], None) == FP32
    assert judged_engine([OTHER, INT8, FP32], OTHER) == OTHER
    assert judged_engine([OTHER, INT8], None) is None
    assert judged_engine([FP32], INT8) is None

"""What is read out of a finished build: made-up stages with numbers known beforehand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from toolchain.report.schema import Report
from toolchain.study.figures import judged_engine, read_outcome

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
        "train_seconds": 8.0, "seconds": 37.0}  # 2*3*3*3; 4*3*3*3 + BatchNorm's 4; 4 epochs of 2 s; 30 + 7
    assert (outcome.epochs, outcome.test_images) == (4, 4)
    assert outcome.right["top1"].tolist() == [True, True, True, False]
    assert outcome.right["int8_top1"].tolist() == [True, False, True, False]


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

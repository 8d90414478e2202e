"""One made-up build, realistic in its numbers: a fixture, not a result of anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from toolchain.recipe.schema import Recipe
from toolchain.report.make import make_report
from toolchain.report.schema import Report

RTX_TARGET = "sm80+sm86+sm89+sm120+sm121"
WEIGHTS = {"fp32": 37_021_736, "fp16": 18_510_868, "bf16": 18_510_868, "int8": 9_296_904, "int4": 5_853_066}

RECIPE: dict[str, Any] = {
    "name": "vgg11_int8",
    "model": {"arch": "vgg11_bn"},
    "quantize": {"method": "qat"},
    "limits": {"top1_drop": 1.5, "agreement": 97.0, "int8": {"top1_drop": 0.5, "speedup": 3.0, "weight_bytes": 0.27},
               "int4": {"weight_bytes": 0.15}},
}

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.9", "platform": "Linux-6.8.0-x86_64-with-glibc2.39", "cpu": "AMD EPYC 9R14",
    "physical_cores": 2, "logical_cores": 2, "instruction_sets": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
    "memory_bytes": 24_600_000_000, "load_average": [1.31, 0.84, 0.52], "gpus": [], "gpu_reason": "no NVIDIA driver",
    "packages": {"torch": "2.15.0", "onnx": "1.23.2", "onnxruntime": None, "onnxruntime-gpu": "1.31.1",
                 "tensorrt": None, "tensorrt-rtx": "1.7.1.116", "openvino": "2026.4.1", "nvidia-modelopt": "0.47.0"},
}

DATA: dict[str, Any] = {
    "name": "digits", "classes": [str(d) for d in range(10)], "train": 1294, "val": 143, "test": 360,
    "split_sha256": "5f2c9a3d7be1480696c1f0a8d34e27bb91f5c07d6a2be84413f9d0c6ea57b821",
    "calibration": {"source": "calib_data/digits", "images": 512},
}

PLAIN_STAGES = {"data": 0.4, "train": 61.8, "export": 9.7, "calibrate": 7.9, "qat": 31.2, "export_qat": 8.8, "measure": 48.3}


def _measured(precision: str, runtime: str, engine_bytes: int, top1: float, low: float, high: float, agreement: float,
              p50: float, speedup: float) -> dict[str, Any]:
    p50s = {"p50": p50, "p95": p50 * 1.16, "p99": p50 * 1.42, "mean": p50 * 1.03, "std": p50 * 0.07, "n": 400}
    return {
        "name": f"{precision}.{runtime}.cpu_x86", "precision": precision, "runtime": runtime, "target": "cpu_x86",
        "path": f"engines/{precision}.{runtime}.cpu_x86", "sha256": "ab" * 32, "engine_bytes": engine_bytes,
        "weight_bytes": WEIGHTS[precision], "measured": True, "reason": None, "top1_percent": top1,
        "top1_interval": [low, high], "top5_percent": 100.0, "agreement_percent": agreement, "latency_ms": p50s,
        "speedup_vs_fp32": {"value": speedup, "low": speedup * 0.97, "high": speedup * 1.03},
        "throughput": [{"batch": b, "images_per_s": b * 1000 / (p50 * b**0.9)} for b in (1, 8, 32)],
        "accuracy_reference": f"fp32.{runtime}.cpu_x86", "latency_reference": f"fp32.{runtime}.cpu_x86",
        "top1_change_vs_fp32": {"value": top1 - 98.61, "low": top1 - 98.61 - 0.83, "high": top1 - 98.61 + 0.56},
        "latency_conditions": {"batch": 1, "threads": 2, "settle_ms": 10.0}, "transfer_ms": None,
        "peak_memory_bytes": engine_bytes + 42_000_000,
        "compute": "weights stored in half, computed in fp32" if precision in ("fp16", "bf16") else precision,
    }


def _unmeasured(precision: str, engine_bytes: int) -> dict[str, Any]:
    return {
        "name": f"{precision}.tensorrt_rtx.{RTX_TARGET}", "precision": precision, "runtime": "tensorrt_rtx",
        "target": RTX_TARGET, "path": f"engines/{precision}.tensorrt_rtx", "sha256": "cd" * 32,
        "engine_bytes": engine_bytes, "weight_bytes": WEIGHTS[precision], "measured": False, "reason": "no GPU",
    }


ENGINES = [
    _measured("fp32", "onnxruntime", 37_050_112, 98.61, 96.78, 99.40, 100.0, 6.41, 1.0),
    _measured("fp16", "onnxruntime", 18_540_032, 98.61, 96.78, 99.40, 100.0, 6.62, 0.968),
    _measured("bf16", "onnxruntime", 18_541_120, 98.61, 96.78, 99.40, 99.72, 6.71, 0.955),
    _measured("int8", "onnxruntime", 9_412_864, 98.33, 96.41, 99.23, 99.44, 0.969, 6.62),
    _measured("int4", "onnxruntime", 5_921_280, 97.50, 95.32, 98.68, 98.33, 7.93, 0.808),
    _measured("fp32", "openvino", 37_102_592, 98.61, 96.78, 99.40, 100.0, 7.12, 1.0),
    _measured("bf16", "openvino", 18_601_984, 98.61, 96.78, 99.40, 99.72, 3.94, 1.81),
    _measured("int8", "openvino", 9_531_392, 98.06, 96.05, 99.05, 99.17, 1.28, 5.56),
    _unmeasured("fp32", 37_164_212), _unmeasured("fp16", 18_671_236), _unmeasured("bf16", 19_360_228),
    _unmeasured("int8", 10_976_332), _unmeasured("int4", 6_882_308),
]

STAGES = [{"name": name, "key": f"{i:064x}", "cached": name in ("data", "train"), "seconds": seconds}
          for i, (name, seconds) in enumerate([
              *PLAIN_STAGES.items(), *((f"onnx_{e['name']}", 0.6) for e in ENGINES),
              *((f"engine_{e['name']}", 1.1) for e in ENGINES)])]

GAPS = {e["name"]: {"max_abs": gap, "relative": gap / 18, "argmax_agreement": 1.0}
        for e in ENGINES for gap in [{"fp32": 2.9e-6, "fp16": 0.0061, "bf16": 0.048, "int8": 0.33, "int4": 0.9}[e["precision"]]]}

HISTORY = {
    "train": [{"epoch": i + 1, "loss": 2.31 * 0.62**i + 0.01, "val_top1_percent": 99.3 - 78 * 0.5**i, "seconds": 5.2 - 0.1 * (i == 3)}
              for i in range(12)],
    "qat": [{"epoch": 1, "loss": 0.034, "val_top1_percent": 98.6, "seconds": 14.8},
            {"epoch": 2, "loss": 0.019, "val_top1_percent": 99.3, "seconds": 15.1}],
}

FIDELITY: dict[str, Any] = {  # fidelity.json of a made-up stage
    "teacher": {"name": "teacher", "top1_percent": 99.17, "top1_interval": [97.58, 99.72]},
    "images": 360,
    "engines": [
        {"name": "fp32.onnxruntime.cpu_x86", "top1_percent": 98.61, "kl_nats": {"value": 0.01234, "low": 0.01011, "high": 0.01467},
         "kl_epsilon_nats": 0.01229, "js_nats": 0.00321, "agreement_percent": {"value": 98.89, "low": 97.78, "high": 99.72}},
        {"name": "int8.onnxruntime.cpu_x86", "top1_percent": 98.33, "kl_nats": {"value": 0.01405, "low": 0.0117, "high": 0.0166},
         "kl_epsilon_nats": 0.014, "js_nats": 0.00362, "agreement_percent": {"value": 98.61, "low": 97.22, "high": 99.72}}],
    "jitter": {
        "settings": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "seed": 7}, "teacher_top1_percent": 95.0,
        "engines": [
            {"name": "fp32.onnxruntime.cpu_x86", "top1_percent": 94.44, "drop": {"value": 4.17, "low": 2.22, "high": 6.11}},
            {"name": "int8.onnxruntime.cpu_x86", "top1_percent": 98.06, "drop": {"value": 0.28, "low": -0.56, "high": 1.11}}]},
    "gradcam": {
        "student_layer": "features.20", "teacher_layer": "features.27", "grid": [4, 4],
        "cosine": {"value": 0.7531, "low": 0.735, "high": 0.7712}, "centred_cosine": {"value": -0.0214, "low": -0.061, "high": 0.018},
        "random_cosine": 0.6112, "random_centred_cosine": 0.011, "student_zero_percent": 1.11, "teacher_zero_percent": 0.28,
        "random_zero_percent": 7.22, "sheet": "gradcam.png"},
    "gradcam_reason": None,
}

# early stop after 2 of 4 epochs: the method's term is then not computed any more
TAUGHT_HISTORY = [
    {"epoch": 1, "loss": 1.9, "val_top1_percent": 60.0, "seconds": 5.0,
     "parts": {"label": 2.3, "method": 3.1, "label_weight": 0.1, "method_weight": 0.9, "soft_weight": 0.0}},
    {"epoch": 2, "loss": 1.2, "val_top1_percent": 80.0, "seconds": 5.0,
     "parts": {"label": 1.4, "method": 1.7, "label_weight": 0.1, "method_weight": 0.9000000357, "soft_weight": 0.0}},
    {"epoch": 3, "loss": 0.8, "val_top1_percent": 90.0, "seconds": 5.0,
     "parts": {"label": 0.8, "label_weight": 1.0, "method_weight": 0.0, "soft_weight": 0.0}},
    {"epoch": 4, "loss": 0.5, "val_top1_percent": 95.0, "seconds": 5.0,
     "parts": {"label": 0.5, "label_weight": 1.0, "method_weight": 0.0, "soft_weight": 0.0}}]


@pytest.fixture
def fidelity() -> dict[str, Any]:
    """fidelity.json of the made-up build, fresh for each test."""
    return copy.deepcopy(FIDELITY)


@pytest.fixture
def taught_report() -> Report:
    """The made-up build with a teacher: compared with it, and taught by DKD with an early stop."""
    return make_report(Recipe.model_validate(RECIPE), ENVIRONMENT, DATA, STAGES, ENGINES, GAPS, None,
                       {"teacher": HISTORY["train"], "train": TAUGHT_HISTORY}, FIDELITY,
                       {"train": {"method": "dkd", "teacher_sha256": "ef" * 32}})


@pytest.fixture
def engines() -> list[dict[str, Any]]:
    """measured.json's records of the made-up build, fresh for each test."""
    return [dict(e) for e in ENGINES]


@pytest.fixture
def sample_report() -> Report:
    """The made-up build as a Report: eight engines measured, five without a GPU, one limit broken (INT4 weights)."""
    return make_report(Recipe.model_validate(RECIPE), ENVIRONMENT, DATA, STAGES, ENGINES, GAPS, None, HISTORY)


@pytest.fixture
def joined() -> Callable[..., Report]:
    """Join engines with the made-up build's other parts: joined(engines, pruning=…, unpruned=…)."""
    return lambda engines, **parts: make_report(Recipe.model_validate(RECIPE), ENVIRONMENT, DATA, STAGES, engines, **parts)

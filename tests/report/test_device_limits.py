"""Limits of the recipe hold on devices too."""

from typing import Any

from toolchain.recipe.schema import Limits
from toolchain.report.device_limits import device_limits
from toolchain.report.devices import DeviceResult
from toolchain.report.limits import broken
from toolchain.report.schema import EngineResult

LIMITS = Limits.model_validate({"int8": {"top1_drop": 0.5, "speedup": 2.0, "weight_bytes": 0.27}})


def ms(p50: float) -> dict[str, Any]:
    return {"p50": p50, "p95": p50, "p99": p50, "mean": p50, "std": 0.0, "n": 400}


def made(name: str, top1: float, p50: float, speedup: float | None = None) -> dict[str, Any]:
    return {"name": name, "built": True, "top1_percent": top1, "latency_ms": ms(p50),
            "speedup_vs_fp32": speedup and {"value": speedup}}


def device(*engines: dict[str, Any]) -> list[DeviceResult]:
    return [DeviceResult.model_validate({"name": "orin", "engines": engines})]


def test_a_device_is_judged_by_its_own_fp32_engine() -> None:
    results = device_limits(LIMITS, device(made("fp32.tensorrt.local_gpu", 90, 2), made("int8.tensorrt.local_gpu", 89, 1.6, 1.25)), [])
    assert broken(results) == ["orin: int8.tensorrt.local_gpu: top1_drop: found 1 points, asked at most 0.5 points",
                               "orin: int8.tensorrt.local_gpu: speedup: found 1.25×, asked at least 2×"]
    assert {result.limit for result in results} == {"top1_drop", "speedup"}  # sizes are judged where they are known


def test_accuracy_is_compared_with_this_machine_where_the_device_has_no_fp32_engine() -> None:
    here = EngineResult.model_validate({"name": "fp32.onnxruntime.cpu_x86", "precision": "fp32", "runtime": "onnxruntime",
                                        "target": "cpu_x86", "measured": True, "top1_percent": 90.0, "latency_ms": ms(9)})
    drop, speedup = device_limits(LIMITS, device(made("int8.tensorrt.local_gpu", 0.0, 1)), [here])
    assert drop.held is False and drop.found == 90
    assert speedup.held is None and speedup.engine == "orin: int8"  # never across machines


def test_an_engine_that_was_not_built_and_a_device_that_failed_have_none() -> None:
    gone = DeviceResult(name="nano", reason="does not answer")
    unbuilt = device({"name": "int8.tensorrt.local_gpu", "built": False, "reason": "no kernel"})
    assert device_limits(LIMITS, [*unbuilt, gone], []) == []

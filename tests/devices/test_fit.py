"""Which engines of a build a device is asked to make or run."""

from __future__ import annotations

import pytest
from bundles import RECORD

from toolchain.devices.fit import hindrance
from toolchain.engines.record import EngineRecord

OLD = {"machine": "x86_64", "sm": None, "runtimes": {"onnxruntime": "1.19.2"}}


@pytest.mark.parametrize(("changes", "facts", "told"), [
    ({"runtime_version": "1.31.1"}, OLD, None),  # an ONNX file: opening it there decides
    ({"runtime_version": "1.31.1"}, {**OLD, "machine": "aarch64"}, "it is built for cpu_x86, and the device is aarch64"),
    ({}, {**OLD, "runtimes": {"tensorrt": "10.3.0"}}, "it runs in onnxruntime, which is not installed there"),
    ({"runtime": "tensorrt", "runtime_version": "10.13.3", "target": "sm87"},
     {"machine": "aarch64", "sm": 87, "runtimes": {"tensorrt": "10.3.0"}}, "it was built by tensorrt 10.13.3 and opens in no other"),
])
def test_only_the_machine_hinders_an_engine_of_onnxruntime(changes: dict, facts: dict, told: str | None) -> None:
    record = EngineRecord(**{**RECORD, "target": "cpu_x86", **changes})
    found = hindrance(record, facts)
    assert found is None if told is None else found is not None and found.startswith(told)

"""What the doctor sees and advises; machines are made up as facts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolchain.doctor import (
    BUILDS,
    RUNS,
    STORED,
    Advice,
    abilities,
    advice,
    examine,
    instruction_sets,
    machine,
    render_doctor,
    versions,
)
from toolchain.recipe.schema import PRECISIONS
from toolchain.report.schema import EnvironmentFacts

BARE: dict[str, Any] = {
    "python": "3.11.9", "platform": "Linux", "cpu": "AMD EPYC 9R14", "physical_cores": 2, "logical_cores": 4, "usable_cores": 2,
    "instruction_sets": ["avx2", "avx512_vnni", "avx512_bf16"], "memory_bytes": 24_000_000_000, "load_average": [0.1, 0.1, 0.1],
    "gpus": [], "gpu_reason": "no NVIDIA driver", "packages": {},
}
ALL = {"torch": "2.15.0", "torchvision": "0.29.2", "onnxruntime-gpu": "1.31.1", "tensorrt": "10.13.0", "tensorrt-rtx": "1.7.1",
       "openvino": "2026.4.1", "nvidia-modelopt": "0.47.0"}


def with_gpu(sm: int) -> dict[str, Any]:
    return BARE | {"packages": ALL, "gpus": [{"name": "GPU", "sm": sm, "driver": "580.82"}], "gpu_reason": None}


def states(facts: dict[str, Any]) -> dict[str, str]:
    return {line.what: line.state for line in advice(facts)}


def precisions(facts: dict[str, Any], runtime: str, target: str = "") -> dict[str, str]:
    return next(a.precisions for a in abilities(facts) if a.runtime == runtime and target in a.target)


def test_x86_flags_are_read_by_name(tmp_path: Path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 avx_vnni_not\n")
    assert instruction_sets(file) == ["avx2", "avx512f", "avx512_vnni", "amx_int8"]


def test_arm_features_get_their_common_names(tmp_path: Path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n")
    assert instruction_sets(file) == ["neon", "dotprod", "i8mm", "bf16"]


def test_a_system_without_cpuinfo_has_no_known_instruction_sets(tmp_path: Path):
    assert instruction_sets(tmp_path / "none") == []


def test_versions_come_from_metadata_and_absence_is_none():
    found = versions(["pydantic", "no-such-distribution"])
    assert found["pydantic"] and found["pydantic"][0].isdigit() and found["no-such-distribution"] is None


def test_the_facts_are_the_environment_of_a_report_and_json():
    facts = examine()
    EnvironmentFacts.model_validate(facts)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["gpu_reason"] is None) == bool(facts["gpus"])
    assert facts["memory_bytes"] > 10**8 and facts["logical_cores"] >= facts["usable_cores"] >= 1


def test_the_machine_is_the_same_from_call_to_call_and_has_no_load_in_it():
    assert machine() == machine()
    assert "load_average" not in machine()


def test_a_bare_machine_is_told_every_install_line():
    how = {line.what: line.how for line in advice(BARE)}
    assert how["onnxruntime cpu_x86"] == "pip install onnxruntime"
    assert how["openvino cpu_x86"] == "pip install -e '.[openvino]'"
    assert how["tensorrt local_gpu"] == "pip install -e '.[tensorrt]'"
    assert "pip install" in how["training, PTQ and export"] and "nvidia-modelopt" in how["QAT"]
    assert set(states(BARE).values()) == {"missing"}


def test_without_a_gpu_rtx_builds_only_tensorrt_cannot_and_the_cpu_runs():
    facts = BARE | {"packages": ALL}
    told = states(facts)
    assert told["tensorrt_rtx sm75 to sm121"] == "builds only" and told["tensorrt local_gpu"] == "cannot build"
    assert precisions(facts, "tensorrt_rtx") == dict.fromkeys(PRECISIONS, BUILDS)
    assert precisions(facts, "onnxruntime", "cpu") == {
        "fp32": RUNS, "fp16": STORED, "bf16": STORED, "int8": RUNS, "int8_weight_only": STORED, "int4": STORED, "mixed": RUNS}


def test_the_other_cpus_files_are_built_here_and_this_ones_come_first():
    for sets, here, other in ((["avx2"], "cpu_x86", "cpu_arm"), (["neon", "dotprod"], "cpu_arm", "cpu_x86")):
        facts = BARE | {"packages": ALL, "instruction_sets": sets}
        assert [a.target for a in abilities(facts)][:2] == [here, other]
        assert states(facts)[f"onnxruntime {here}"] == "ready" and states(facts)[f"onnxruntime {other}"] == "builds only"
        assert set(precisions(facts, "onnxruntime", other).values()) == {BUILDS}


@pytest.mark.parametrize(("sm", "runs"), [
    (75, {"fp16", "int8", "int8_weight_only"}), (86, set(PRECISIONS) - {"fp8"}), (89, set(PRECISIONS)),
    (90, set())])  # TensorRT for RTX has no SM90: what it builds does not run on an H100
def test_rtx_runs_what_its_sm_can(sm: int, runs: set[str]):
    found = precisions(with_gpu(sm), "tensorrt_rtx")
    assert {p for p, state in found.items() if state == RUNS} == runs and set(found) == set(PRECISIONS)


def test_tensorrt_builds_bf16_from_ampere_on_and_fp8_from_ada_on():
    assert set(PRECISIONS) - set(precisions(with_gpu(75), "tensorrt")) == {"bf16", "fp8"}
    assert set(PRECISIONS) - set(precisions(with_gpu(87), "tensorrt")) == {"fp8"}  # a Jetson Orin
    assert set(precisions(with_gpu(90), "tensorrt")) == set(PRECISIONS)


def test_openvino_runs_bf16_only_where_the_cpu_has_it():
    facts = BARE | {"packages": ALL}
    assert "bf16" in precisions(facts, "openvino")
    assert "bf16" not in precisions(facts | {"instruction_sets": ["avx2"]}, "openvino")
    assert "fp8" not in precisions(facts, "openvino")


def test_what_spoils_a_measurement_or_an_install_is_said():
    facts = BARE | {"packages": ALL | {"onnxruntime": "1.31.1"}, "instruction_sets": ["avx2"], "load_average": [3.0, 1, 1]}
    told = states(facts)
    assert (told["onnxruntime, twice"], told["INT8 on this CPU"], told["measuring now"]) == ("conflict", "slow", "noisy")
    assert not {"conflict", "slow", "noisy"} & set(states(BARE | {"packages": ALL}).values())


def test_advice_unpacks_into_what_state_how():
    what, state, how = advice(BARE)[0]
    assert isinstance(advice(BARE)[0], Advice) and (what, state, how) == ("onnxruntime cpu_x86", "missing", "pip install onnxruntime")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_printed_page_names_machine_runtimes_and_install_lines(terminal: bool):
    file = io.StringIO()
    render_doctor(with_gpu(75) | {"packages": ALL | {"openvino": None}},
                  Console(file=file, width=120, force_terminal=terminal, color_system=None))
    text = file.getvalue()
    for fact in ("AMD EPYC 9R14, 2 cores", "GPU (sm75), driver 580.82", "avx512_vnni", "pip install -e '.[openvino]'",
                 "as fp32", "tensorrt_rtx"):
        assert fact in text
    assert terminal or text.isascii()


def test_the_table_of_engines_has_one_line_for_each_where_a_page_has_140_columns():
    file = io.StringIO()
    render_doctor(BARE | {"packages": ALL}, Console(file=file, width=140, force_terminal=True, color_system=None))
    rows = [line for line in file.getvalue().splitlines() if line.startswith("│")]
    assert len(rows) == 1 + len(abilities(BARE | {"packages": ALL}))
    assert "INT8 WEIGHT ONLY" in rows[0] and all("…" not in row and len(row) <= 140 for row in rows)


def test_the_doctor_imports_no_runtime_and_takes_under_half_a_second():
    code = ("import sys, time; start = time.perf_counter(); from toolchain.doctor import examine, advice; advice(examine());"
            "print(time.perf_counter() - start); "
            "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'openvino') if m in sys.modules])")
    best = 9.0
    for _ in range(5):  # the best of five: other work on the machine is not ours
        seconds, modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        assert modules == "[]"
        best = min(best, float(seconds))
        if best < 0.5:
            return
        time.sleep(0.5)
    raise AssertionError(f"{best:.2f} s")

"""report.json as a contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from toolchain.errors import ToolchainError
from toolchain.report.fidelity import Fidelity
from toolchain.report.make import write_report
from toolchain.report.schema import EngineResult, Report, load_report


def saved(report: Report, folder: Path, **changes: Any) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(report.to_json()) | changes), encoding="utf-8")
    return path


def test_a_report_read_back_is_the_report_written(sample_report: Report, tmp_path: Path):
    write_report(sample_report, tmp_path)
    assert load_report(tmp_path / "report.json") == sample_report
    assert load_report(tmp_path / "report.json").to_json() == (tmp_path / "report.json").read_text(encoding="utf-8")


def test_what_was_taught_is_read_back_as_its_stage_wrote_it(taught_report: Report, fidelity: dict[str, Any], tmp_path: Path):
    write_report(taught_report, tmp_path)
    assert load_report(tmp_path / "report.json") == taught_report
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["fidelity"] == fidelity and content["schema_version"] == 1
    assert content["fidelity"]["jitter"]["settings"]["seed"] == 7
    assert content["training"][1]["taught"]["method"] == "dkd" and content["training"][0]["taught"] is None
    assert content["training"][1]["epochs"][3]["parts"]["method_weight"] == 0


def test_a_report_from_before_distillation_still_loads(sample_report: Report, tmp_path: Path):
    content = json.loads(sample_report.to_json())
    del content["fidelity"]
    for run in content["training"]:
        del run["taught"]
        for epoch in run["epochs"]:
            del epoch["parts"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    old = load_report(tmp_path / "report.json")
    assert old.fidelity is None and old.training[0].epochs[0].parts == {} and old == sample_report


@pytest.mark.parametrize(("part", "complaint"), [({"images": 0}, "fidelity.images"), ({"teacher": None}, "fidelity.teacher")])
def test_a_wrong_figure_of_the_comparison_is_named(
        taught_report: Report, fidelity: dict[str, Any], tmp_path: Path, part: dict[str, Any], complaint: str):
    with pytest.raises(ToolchainError, match=complaint):
        load_report(saved(taught_report, tmp_path, fidelity=fidelity | part))


def test_the_sheet_is_a_file_beside_the_report(fidelity: dict[str, Any]):
    for name in ("../secret.png", "a/b.png", "x](http:y.png"):
        with pytest.raises(ValidationError, match="sheet"):
            Fidelity.model_validate(fidelity | {"gradcam": fidelity["gradcam"] | {"sheet": name}})


def test_the_keys_the_contract_names_are_there(sample_report: Report):
    content = json.loads(sample_report.to_json())
    assert {"schema_version", "recipe", "environment", "data", "stages", "engines", "limits", "training"} <= set(content)
    assert content["schema_version"] == 1
    assert set(content["stages"][0]) == {"name", "key", "cached", "seconds"}
    asked = {"name", "precision", "runtime", "target", "path", "sha256", "engine_bytes", "weight_bytes", "measured", "reason",
             "top1_percent", "top1_interval", "top5_percent", "agreement_percent", "latency_ms", "speedup_vs_fp32",
             "throughput", "peak_memory_bytes", "compute", "gap"}
    assert all(asked <= set(engine) for engine in content["engines"])
    assert set(content["engines"][0]["latency_ms"]) == {"p50", "p95", "p99", "mean", "std", "n"}
    assert content["recipe"]["quantize"]["calibrator"] == {"method": "entropy"}  # a default, written out


def test_what_was_not_measured_is_null(sample_report: Report):
    engine = next(e for e in json.loads(sample_report.to_json())["engines"] if not e["measured"])
    assert engine["reason"] == "no GPU" and engine["engine_bytes"] > 0
    assert [engine[key] for key in ("top1_percent", "latency_ms", "speedup_vs_fp32", "peak_memory_bytes")] == [None] * 4


def test_keys_of_a_later_version_are_kept(sample_report: Report, tmp_path: Path):
    path = saved(sample_report, tmp_path, energy={"joules": 3})
    assert json.loads(load_report(path).to_json())["energy"] == {"joules": 3}


def test_a_report_is_frozen(sample_report: Report):
    with pytest.raises(ValidationError):
        sample_report.schema_version = 1  # type: ignore[misc]


@pytest.mark.parametrize(("facts", "complaint"), [
    ({"measured": False}, "`reason` must say why"),
    ({"measured": False, "reason": "no GPU", "top1_percent": 98.0}, "top1_percent must be null"),
    ({"measured": True, "top1_percent": 101.0}, "less than or equal to 100"),
    ({"measured": True, "top1_percent": float("nan")}, "finite number"),
])
def test_an_engine_with_an_invented_figure_is_refused(facts: dict[str, Any], complaint: str):
    with pytest.raises(ValidationError, match=complaint):
        EngineResult.model_validate({"name": "e", "precision": "int8", "runtime": "r", "target": "t"} | facts)


def test_another_schema_version_is_refused_by_number(sample_report: Report, tmp_path: Path):
    with pytest.raises(ToolchainError, match=r"report.json: schema_version: found 2, expected 1"):
        load_report(saved(sample_report, tmp_path, schema_version=2))


def test_a_wrong_field_is_named_with_its_place(sample_report: Report, tmp_path: Path):
    with pytest.raises(ToolchainError, match=r"report.json: data.test: Field required"):
        load_report(saved(sample_report, tmp_path, data={"name": "d", "classes": [], "train": 1, "val": 1, "split_sha256": "x"}))


@pytest.mark.parametrize(("content", "complaint"), [(b"", "not JSON"), (b"{\"schema_version\": 1", "not JSON"),
                                                    (b"\xff\xfe", "not JSON"), (b"[]", "schema_version: found None")])
def test_a_damaged_file_is_told_apart_from_a_wrong_one(tmp_path: Path, content: bytes, complaint: str):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ToolchainError, match=complaint):
        load_report(tmp_path / "report.json")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ToolchainError, match=r"none.json: cannot be read \(No such file"):
        load_report(tmp_path / "none.json")

"""The gate on what engines did on a device: the same rules, its own FP32 engines, files and conditions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from check_runs import FP32, INT8, images, times, write, wrong_at

from toolchain.check.baseline import make_baseline
from toolchain.check.device_run import read_device_run
from toolchain.check.finding import Tolerances
from toolchain.check.judge import check
from toolchain.cli import main
from toolchain.measure.npz import save_arrays
from toolchain.report.schema import load_report

LABELS, KEYS = images(5000)
ON_ORIN = {"fp32.tensorrt.local_gpu": 4.0, "int8.tensorrt.local_gpu": 1.0, "fp32.onnxruntime.cpu_arm": 40.0}
INT8_THERE = "int8.tensorrt.local_gpu"
FACTS = {"cpu": "Cortex-A78AE", "gpu": {"name": "Orin", "sm": 87, "cuda": "12.6"}, "l4t": "36.4.3", "power_mode": "MAXN"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def built(folder: Path, wrong: int = 20, slower: float = 1.0, mode: str = "MAXN", drop: float | None = None,
          **changes: Any) -> Path:
    """A build with what it did on orin. wrong: images that the INT8 engine has wrong there. slower: of that engine.
    changes: of its record.
    """
    write(folder, LABELS, KEYS, {FP32: LABELS, INT8: wrong_at(LABELS, range(20))})
    place, answers = folder / "devices" / "orin", {name: wrong_at(LABELS, range(wrong)) if name == INT8_THERE else LABELS for name in ON_ORIN}
    ms = {name: times(at * (slower if name == INT8_THERE else 1), i) for i, (name, at) in enumerate(ON_ORIN.items())}
    engines = []
    for name, given in answers.items():
        engine = place / "engines" / name / "engine.trt"
        engine.parent.mkdir(parents=True, exist_ok=True)
        engine.write_bytes(name.encode())
        median = float(np.median(ms[name]))
        engines.append({"name": name, "built": True, "sha256": sha256(engine), "engine_bytes": 1_000_000, "runtime_version": "10.3.0",
                        "golden_held": True, "top1_percent": 100 * float(np.mean(given == LABELS)),
                        "latency_ms": {**dict.fromkeys(("p50", "p95", "p99", "mean"), median), "std": 0.1, "n": 100},
                        **(changes if name == INT8_THERE else {})})
    save_arrays(place / "predictions.npz", {"labels": LABELS, "keys": KEYS, **{name: given[:, None] for name, given in answers.items()}})
    save_arrays(place / "latency.npz", ms)
    orin = {"name": "orin", "machine": "Orin", "batch": 1, "threads": 12, "engines": engines, "environment": {**FACTS, "power_mode": mode},
            "machine_settings": {"power_mode": mode, "governor": "schedutil"},
            "files": {name: sha256(place / name) for name in ("predictions.npz", "latency.npz")}}
    report = json.loads((folder / "report.json").read_text()) | {"devices": [orin, {"name": "nano", "reason": "does not answer"}]}
    if drop is not None:
        report["limits"] = [{"engine": f"orin: {INT8_THERE}", "limit": "top1_drop", "asked": drop, "found": 0.0, "held": True}]
    return reported(folder, report)


def reported(folder: Path, report: dict[str, Any]) -> Path:
    (folder / "report.json").write_text(json.dumps(report))
    written = json.loads((folder / "published.json").read_text()) | {"report.json": sha256(folder / "report.json")}
    (folder / "published.json").write_text(json.dumps(written))
    return folder


def outcomes(folder: Path, before: Path) -> dict[tuple[str, str], tuple[str, str]]:
    found = check(read_device_run(folder, "orin"), make_baseline(read_device_run(before, "orin")), Tolerances())
    return {(one.engine, one.what): (one.outcome, one.told) for one in found}


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_a_run_passes_its_own_baseline_which_knows_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run = built(tmp_path / "run")
    assert command("baseline", run, "--device", "orin") == 0
    file = tmp_path / "baselines" / "made.orin.json"
    kept = json.loads(file.read_text())
    assert kept["device"] == "orin" and list(kept["engines"]) == list(ON_ORIN)
    gpu = kept["engines"][INT8_THERE]
    assert gpu["conditions"] == {"device": "Orin", "driver": "36.4.3", "runtime_version": "10.3.0", "batch": 1, "threads": None,
                                 "governor": "schedutil", "power_mode": "MAXN"}
    assert gpu["latency_reference"] == gpu["accuracy_reference"] == "fp32.tensorrt.local_gpu" and gpu["speedup_by_round"]
    assert kept["engines"]["fp32.onnxruntime.cpu_arm"]["conditions"]["device"] == "Cortex-A78AE"
    capsys.readouterr()
    assert command("check", run, "--device", "orin", "--baseline", file) == 0
    assert "made on orin against" in capsys.readouterr().out


def test_worse_answers_and_a_slower_engine_there_are_regressions_though_all_is_well_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = built(tmp_path / "before")
    found = outcomes(built(tmp_path / "worse", wrong=400), before)
    assert found[INT8_THERE, "top-1 against the baseline"][0] == "regression"
    found = outcomes(built(tmp_path / "slow", slower=1.5), before)
    assert found[INT8_THERE, "latency"][0] == "regression"
    assert all(told[0] != "regression" for (engine, _), told in found.items() if engine != INT8_THERE)
    assert command("baseline", before, "--device", "orin", "-o", tmp_path / "b.json") == 0
    assert command("check", tmp_path / "slow", "--device", "orin", "--baseline", tmp_path / "b.json") == 11


def test_another_power_mode_is_no_evidence_on_latency_and_is_said(tmp_path: Path) -> None:
    found = outcomes(built(tmp_path / "now", slower=1.5, mode="15W"), built(tmp_path / "before"))
    outcome, told = found[INT8_THERE, "latency"]
    assert outcome == "not judged" and "power mode '15W', not 'MAXN'" in told


def test_the_recipe_s_limit_on_the_loss_holds_there_too(tmp_path: Path) -> None:
    found = outcomes(built(tmp_path / "now", wrong=20, drop=1.0), built(tmp_path / "before"))
    outcome, told = found[INT8_THERE, "top-1 against FP32"]
    assert outcome == "pass" and "where the recipe allows 1;" in told


def test_golden_answers_that_are_not_given_there_are_a_regression(tmp_path: Path) -> None:
    found = outcomes(built(tmp_path / "now", golden_held=False), built(tmp_path / "before"))
    assert found[INT8_THERE, "golden answers"] == (
        "regression", "on orin it does not answer the golden inputs as where it was built")


def test_more_rounds_there_are_asked_for_with_the_device(tmp_path: Path) -> None:
    doubt = {"verdict": "inconclusive", "causes": ["hot"], "attempts": 2}
    found = outcomes(built(tmp_path / "now", slower=1.5, validity=doubt), built(tmp_path / "before"))
    assert "build again on a quiet machine with --on orin --remeasure" in found[INT8_THERE, "latency"][1]


@pytest.mark.parametrize(("of", "words", "told"), [
    (None, ["--device", "orin"], "b.json: is of the machine that built it, but what is judged is of the device 'orin'; name the "
     "baseline that `toolchain baseline RUN --device orin` wrote, or leave --device out"),
    ("orin", [], "b.json: is of the device 'orin', but what is judged is of the machine that built it; name the baseline "
     "that `toolchain baseline RUN` wrote, or judge that one with --device orin"),
    ("nano", ["--device", "orin"], "b.json: is of the device 'nano', but what is judged is of the device 'orin'; name the "
     "baseline that `toolchain baseline RUN --device orin` wrote, or judge that one with --device nano")])
def test_a_baseline_of_another_device_is_refused(
    of: str | None, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = built(tmp_path / "run")
    before = make_baseline(read_device_run(run, "orin")).model_copy(update={"device": of})
    (tmp_path / "b.json").write_text(before.to_json())
    assert command("check", run, "--baseline", tmp_path / "b.json", *words) == 3
    read = capsys.readouterr()
    assert told in read.err and not read.out


def test_no_baseline_is_written_of_wrong_golden_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = built(tmp_path / "run", golden_held=False)
    assert command("baseline", run, "--device", "orin", "-o", tmp_path / "b.json") == 14
    assert f"on orin {INT8_THERE} did not answer the golden inputs as where built" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


def test_what_is_missing_or_altered_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = built(tmp_path / "run")
    place = run / "devices" / "orin"

    def ends(code: int, name: str = "orin") -> str:
        assert command("baseline", run, "--device", name, "-o", tmp_path / "b.json") == code
        return capsys.readouterr().err

    assert "has no results of the device 'orni', did you mean 'orin'?" in ends(9, "orni")
    assert "has nothing of nano to judge: does not answer; build again with --on nano" in ends(9, "nano")
    (place / "latency.npz").write_bytes(b"other")
    assert "latency.npz: SHA-256 is" in ends(8)
    built(run)
    (place / "engines" / INT8_THERE / "engine.trt").write_bytes(b"other")
    assert "is not the engine that came from orin" in ends(8)
    (place / "engines" / INT8_THERE / "engine.trt").unlink()
    assert "its engine is missing" in ends(9)
    built(run)
    (place / "predictions.npz").unlink()
    assert "predictions.npz: is missing; build again with --on orin" in ends(9)
    built(run)
    report = json.loads(load_report(run / "report.json").to_json())
    report["devices"][0]["files"] = {}
    reported(run, report)
    assert "as an earlier version wrote it; build again with --on orin" in ends(9)
    assert not (tmp_path / "b.json").exists()

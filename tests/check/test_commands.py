import json
import os
import subprocess
import sys

import numpy as np
import pytest
from check_runs import FP32, INT8, images, write, wrong_at

from toolchain.cli import main
from toolchain.commands_check import run_baseline, run_check
from toolchain.errors import Regression

LABELS, KEYS = images(5000)
ANSWERS = {FP32: LABELS, INT8: wrong_at(LABELS, range(20))}


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", LABELS, KEYS, ANSWERS)


@pytest.fixture
def baseline(run, tmp_path):
    return run_baseline(run, tmp_path / "deep" / "b.json")


def ends(code, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert (stop.value.code or 0) == code


def test_a_baseline_is_said_and_the_same_run_writes_the_same_bytes(run, baseline, capsys):
    first = baseline.read_bytes()
    run_baseline(run, baseline)
    assert baseline.read_bytes() == first
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"2 engines on 5,000 test images, {len(first):,} bytes, unchanged")


def test_a_baseline_of_an_inconclusive_latency_says_so(tmp_path, capsys):
    doubt = {"verdict": "inconclusive", "causes": ["others computed"], "attempts": 2}
    run_baseline(write(tmp_path / "busy", LABELS, KEYS, ANSWERS, validity=doubt), tmp_path / "b.json")
    assert f"the latency of 2 engines was inconclusive, such as {FP32}: others computed." in capsys.readouterr().out


def test_without_a_name_the_file_is_called_after_recipe_and_device(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(run_baseline(run)).replace("\\", "/") == "baselines/made.made-cpu.json" and run_baseline(run).is_file()


def test_a_run_passes_its_own_baseline_and_leaves_every_file(run, baseline, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("earlier step\n")
    ends(0, "check", run, "--baseline", baseline, "--junit", tmp_path / "j.xml", "--json", tmp_path / "new" / "c.json",
         "--github", "--all")
    assert "::notice title=toolchain check::made against" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "c.json").read_text())["outcome"] == "pass"
    assert (tmp_path / "summary.md").read_text().startswith("earlier step\n### made against")
    assert "<testsuites" in (tmp_path / "j.xml").read_text()


def test_a_regression_ends_with_11_after_every_file_is_written(run, baseline, tmp_path, capsys):
    write(run, LABELS, KEYS, {**ANSWERS, INT8: wrong_at(LABELS, range(200))})
    ends(11, "check", run, "--baseline", baseline, "--json", tmp_path / "c.json")
    assert f"error: worse than the baseline:\n  {INT8}: top-1 against the baseline: 99.60" in capsys.readouterr().err
    assert json.loads((tmp_path / "c.json").read_text())["outcome"] == "regression"


def test_missing_evidence_ends_with_12_and_other_images_with_3(run, baseline, tmp_path, capsys):
    write(run, LABELS, KEYS, {FP32: LABELS})
    ends(12, "check", run, "--baseline", baseline)
    assert "error: cannot be told from what was measured:" in capsys.readouterr().err
    write(run, LABELS, KEYS + np.uint64(1), ANSWERS)
    ends(3, "check", run, "--baseline", baseline)
    assert "was made with other test images than this run" in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_said(run, baseline, tmp_path, capsys, monkeypatch):
    ends(3, "check", run, "--baseline", tmp_path / "none.json")
    ends(9, "check", tmp_path, "--baseline", baseline)
    ends(2, "check", run, "--baseline", baseline, "--margin", "0")
    ends(9, "baseline", run, "-o", run / "report.json" / "b.json")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(run))
    ends(9, "check", run, "--baseline", baseline, "--github")
    said = capsys.readouterr().err
    for words in ("$GITHUB_STEP_SUMMARY", "none.json: cannot be read", "has no report.json", "--margin 0: expected above 0", "cannot be written"):
        assert words in said
    assert "Traceback" not in said


def test_a_verdict_counts_more_than_a_file_that_cannot_be_written(run, baseline, tmp_path, capsys):
    write(run, LABELS, KEYS, {**ANSWERS, INT8: wrong_at(LABELS, range(200))})
    ends(11, "check", run, "--baseline", baseline, "--json", run / "report.json" / "c.json")
    told = capsys.readouterr().err
    assert "worse than the baseline" in told and "c.json: cannot be written" in told


def test_a_pipe_is_written_to_and_never_replaced(run, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    ends(0, "baseline", run, "-o", pipe)
    assert json.loads(reader.communicate(timeout=60)[0])["engines"] and not pipe.is_file()


def test_an_edited_report_is_not_judged(run, baseline, tmp_path, capsys):
    text = (run / "report.json").read_text()
    (run / "report.json").write_text(text.replace('"measured": true', '"measured": false', 1))
    ends(8, "check", run, "--baseline", baseline)
    ends(8, "baseline", run, "-o", tmp_path / "edited.json")
    assert "report.json: SHA-256 is" in capsys.readouterr().err


def test_the_same_images_in_another_order_give_the_same_verdict(run, baseline, tmp_path):
    worse = {**ANSWERS, INT8: wrong_at(LABELS, range(15, 70))}
    order, told = np.random.default_rng(0).permutation(5000), []
    for p in (np.arange(5000), order):
        write(run, LABELS[p], KEYS[p], {name: given[p] for name, given in worse.items()})
        with pytest.raises(Regression):
            run_check(run, baseline, json_file=tmp_path / "c.json")
        told.append((tmp_path / "c.json").read_bytes())
    assert told[0] == told[1]


def test_the_gate_loads_neither_torch_nor_a_runtime(run, baseline):
    code = ("import sys; from pathlib import Path; from toolchain.commands_check import run_check;"
            f"run_check(Path({str(run)!r}), Path({str(baseline)!r}));"
            "sys.exit(str([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'scipy') if m in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]", done.stderr


def test_a_file_that_may_not_be_read_is_an_error_and_no_bug(run, baseline, monkeypatch, capsys):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(run / "predictions.npz"))

    monkeypatch.setattr("toolchain.check.finished_run.np.load", denied)
    monkeypatch.setattr("toolchain.published.sha256_file", denied)
    ends(9, "check", run, "--baseline", baseline)
    assert "predictions.npz: Permission denied; mend its permissions" in capsys.readouterr().err


def test_a_terminal_without_unicode_loses_no_verdict(run, baseline):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-m", "toolchain", "check", str(run), "--baseline", str(baseline), "--all"],
                          capture_output=True, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"pass" in done.stdout, done.stderr

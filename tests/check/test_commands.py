import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

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
    ends(2, "check", tmp_path / "no_run", "--baseline", baseline)
    ends(2, "check", run, "--baseline", baseline, "--margin", "0")
    ends(9, "baseline", run, "-o", run / "report.json" / "b.json")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(run))
    ends(9, "check", run, "--baseline", baseline, "--github")
    said = capsys.readouterr().err
    for words in ("$GITHUB_STEP_SUMMARY", "none.json: cannot be read", "has no report.json", "no_run: no such folder", "--margin 0: expected above 0", "cannot be written"):
        assert words in said
    assert "Traceback" not in said


def test_only_a_file_of_its_own_kind_is_replaced(run, baseline, tmp_path, capsys, monkeypatch):
    other, junit, verdict = tmp_path / "README.md", tmp_path / "j.xml", tmp_path / "c.json"
    other.write_text("<testsuite> in a text")
    for words in (("baseline", run, "-o", other), ("baseline", run, "-o", run / "report.json"),
                  ("check", run, "--baseline", baseline, "--junit", baseline), ("check", run, "--baseline", baseline, "--json", other)):
        before = words[-1].read_bytes()
        ends(2, *words)
        assert f"{words[-1]}: exists and is not " in capsys.readouterr().err and words[-1].read_bytes() == before
    monkeypatch.chdir(tmp_path)
    run_baseline(run)
    (written,) = (tmp_path / "baselines").iterdir()
    written.write_text("mine")
    ends(2, "baseline", run)
    for file in (junit, verdict, baseline):
        file.write_text("" if file != baseline else baseline.read_text().replace('"schema_version": 1', '"schema_version": 0'))
    for _ in range(2):  # once empty, once written by us
        ends(0, "baseline", run, "-o", baseline)
        ends(0, "check", run, "--baseline", baseline, "--junit", junit, "--json", verdict)


def test_what_is_no_baseline_is_never_said_to_be_made_in_its_place(run, tmp_path, capsys):
    for text in ("# Notes", '{"name": "mine"}', '{"schema_version": 1}'):
        (tmp_path / "README.md").write_text(text)
        ends(3, "check", run, "--baseline", tmp_path / "README.md")
        said = capsys.readouterr().err
        assert "name the file that `toolchain baseline` wrote" in said and " -o " not in said and "again" not in said


def test_stdout_takes_one_of_the_files_and_people_read_stderr_then(run, baseline, capsys):
    capsys.readouterr()
    ends(0, "check", run, "--baseline", baseline, "--junit", "-", "--github")
    read = capsys.readouterr()
    assert read.out.startswith("<?xml") and read.out.endswith("</testsuites>\n")
    assert "made against" in read.err and "::notice" in read.err
    ends(0, "check", run, "--baseline", baseline, "--json", "-")
    assert json.loads(capsys.readouterr().out)["outcome"] == "pass"
    ends(0, "baseline", run, "-o", "-")
    read = capsys.readouterr()
    assert read.out == baseline.read_text() and "the baseline: 2 engines" in read.err
    ends(2, "check", run, "--baseline", baseline, "--json", "-", "--junit", "-")
    assert "only one of them can go to stdout" in capsys.readouterr().err


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_sentence_and_hides_no_verdict(run, baseline, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}

    def full(*words):
        with FULL.open("w") as out:
            done = subprocess.run([sys.executable, "-m", "toolchain", *map(str, words)], stdout=out,
                                  stderr=subprocess.PIPE, text=True, env=environment)
        assert "Traceback" not in done.stderr and "ignored" not in done.stderr
        return done.returncode, done.stderr

    code, told = full("check", run, "--baseline", baseline)
    assert code == 9 and told.count("\n") == 1 and "stdout: cannot be written (No space left on device)" in told
    code, told = full("baseline", run, "-o", baseline)
    assert code == 9 and told.count("\n") == 1 and "No space left on device" in told
    write(run, LABELS, KEYS, {**ANSWERS, INT8: wrong_at(LABELS, range(200))})
    code, told = full("check", run, "--baseline", baseline)
    assert code == 11 and "worse than the baseline" in told and "stdout: cannot be written" in told


@pytest.mark.parametrize(("words", "said"), [
    (["check", "r"], "no file was left half written, run the same command again from its start"),
    (["--debug", "bench", "r"], "no file was left half written"), (["build", "r"], "the same command goes on from here"),
    (["build", "r", "--on=orin"], "devices go on with what they were asked already; the same command goes on from here, and fetches it"),
    (["bench", "r", "--on", "orin"], "run the same command again from its start")])
def test_ctrl_c_promises_what_is_true(words, said, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise SystemExit(130)

    monkeypatch.setattr("toolchain.cli.app", interrupted)
    monkeypatch.setattr("toolchain.cli.os._exit", sys.exit)
    ends(130, *words)
    assert said in capsys.readouterr().err


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


def test_an_engine_that_was_deleted_or_altered_is_named_and_not_judged(run, baseline, tmp_path, capsys):
    engine = run / "engines" / INT8 / "engine.onnx"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"engine")
    published = json.loads((run / "published.json").read_text())
    name = f"engines/{INT8}/engine.onnx"
    (run / "published.json").write_text(json.dumps({**published, name: hashlib.sha256(b"engine").hexdigest()}))
    ends(0, "check", run, "--baseline", baseline)
    engine.write_bytes(b"Engine")
    ends(8, "check", run, "--baseline", baseline)
    assert f"{engine}: SHA-256 is" in capsys.readouterr().err
    engine.unlink()
    ends(9, "check", run, "--baseline", baseline)
    ends(9, "baseline", run, "-o", tmp_path / "gone.json")
    assert capsys.readouterr().err.count(f"{engine}: is missing") == 2


def test_a_report_that_is_none_ends_with_2_and_digests_that_are_none_with_9(run, baseline, capsys):
    published = json.loads((run / "published.json").read_text())
    (run / "report.json").write_text('{"schema_version": 1, "engines": [{"name": "e", "measured": false}]}')
    digest = hashlib.sha256((run / "report.json").read_bytes()).hexdigest()
    (run / "published.json").write_text(json.dumps({**published, "report.json": digest}))
    ends(2, "check", run, "--baseline", baseline)
    told = capsys.readouterr().err
    assert "report.json: " in told and "Field required" in told and "Value error" not in told
    (run / "published.json").write_text('{"report.json": 5}')
    ends(9, "check", run, "--baseline", baseline)
    assert "published.json: cannot be read" in capsys.readouterr().err


def test_a_baseline_of_another_recipe_is_said(run, baseline, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(baseline.read_text().replace('"recipe": "made"', '"recipe": "another"'))
    ends(0, "check", run, "--baseline", other)
    assert "notice: the baseline is of the recipe 'another', this run of 'made'" in capsys.readouterr().out


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

"""Two seeds of two rows, really built: one row fails, the other goes on, and the same command does nothing twice."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.commands import run_study
from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe
from toolchain.workdir import WorkDir

ROOT = Path(__file__).parents[2]
TEXT = """\
name: pair
seeds: [0, 1]
control: plain
metrics: [top1, val_top1, parameters, seconds]
rows:
  plain: {recipe: tiny.yaml}
  broken: {recipe: tiny.yaml, set: [train.optimizer.lr=1e30, train.clip_norm=null]}
"""


def test_a_failing_row_does_not_lose_the_others_and_a_second_run_builds_nothing(
        write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_study(write(TEXT), out=out) == 4  # TrainError's
    first = json.loads((out / "study.json").read_text())
    plain, broken = first["rows"]
    for seed in ("0", "1"):
        report = json.loads((out / "runs" / f"plain.seed{seed}" / "report.json").read_text())
        assert report["recipe"]["seed"] == int(seed)
        assert plain["figures"]["top1"]["values"][seed] == report["engines"][0]["top1_percent"]
    assert plain["epochs"] == {"0": 1, "1": 1}
    assert [(f["seed"], f["exit_code"]) for f in broken["failures"]] == [(0, 4), (1, 4)]
    assert "learning rate" in broken["failures"][0]["message"] and broken["figures"] == {}
    assert first["runs_done"] == 2 and (out / "study.html").is_file()
    said = capfd.readouterr()
    assert "[1/4] plain, seed 0: top-1 " in said.err and "[4/4] broken, seed 1: failed: " in said.err
    assert "for the other 3" in said.err and "2 of 4 runs finished" in said.out
    data = [line for line in said.err.splitlines() if line.startswith("data ")]
    assert len(data) == 4 and sum("cached" in line for line in data) == 3, "the runs share one cache"

    work = WorkDir(out / "runs" / "plain.seed0")
    work.publish(out / "study.html", "gradcam.png")  # as if this build had drawn maps before
    made = {p.name for p in (out / "cache").iterdir()}
    start = time.monotonic()
    only_plain = TEXT[:TEXT.index("  broken")]
    assert run_study(write(only_plain), out=out) == 0
    assert time.monotonic() - start < 10
    assert {p.name for p in (out / "cache").iterdir()} == made
    again = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("train ", "measure ", "export "))]
    assert len(again) == 6 and all(line.endswith("cached") for line in again)
    assert json.loads((out / "study.json").read_text())["rows"][0] == plain
    assert not (work.out / "gradcam.png").exists() and (work.out / "preprocess.json").is_file()


def test_a_dry_run_lists_the_runs_and_makes_nothing(
        write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_study(write(TEXT), out=out, dry_run=True) == 0
    assert not out.exists()
    title, head, *rows, last = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert title[0] == "pair" and head == ["Row", "Seed", "Stages", "To", "do"]
    stages = int(rows[0][2])
    assert [row[:2] for row in rows] == [["plain", "0"], ["broken", "0"], ["plain", "1"], ["broken", "1"]]
    assert [int(row[3]) for row in rows] == [stages] + [stages - 1] * 3, "they share the data"
    assert last[:9] == [str(4 * stages - 3), *"stages to do in 4 of 4 runs;".split()]
    ran = subprocess.run([sys.executable, "-m", "toolchain", "study", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert "--dry-run" in ran.stdout


def test_a_study_given_to_build_or_validate_is_one_sentence(write: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(TEXT))
    path = write(TEXT)
    assert str(caught.value) == f"{path}: this is a study, not a recipe: run `toolchain study {path}`"


def test_a_bad_study_is_one_message_and_exit_code_2(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(TEXT.replace("control: plain", "control: plane"))
    done = subprocess.run([sys.executable, "-m", "toolchain", "study", str(path), "--out", str(tmp_path / "out")],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "did you mean 'plain'?" in done.stderr and "Traceback" not in done.stderr

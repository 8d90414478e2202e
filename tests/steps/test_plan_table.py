"""`toolchain plan`: a line for each stage, and what catches the eye is to do or missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.cli import main
from toolchain.commands_plan import run_plan
from toolchain.steps.plan_table import print_plan
from toolchain.workdir import Stage

STAGES = [Stage(name, "0123456789abcdef", Path("x"), cached, 0.0, tuple(f"engine_{i}.onnxruntime.cpu_x86" for i in range(12)))
          for name, cached in (("data", True), ("measure", False))]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\nmodel: {arch: vgg11_bn}\nengines: [{runtime: onnxruntime, precision: int8}]\n")
    return path


def test_each_stage_has_one_line_and_what_it_needs_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan("tiny in build", STAGES, False, None, None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["tiny", "in", "build"], ["stage", "state"], ["data", "cached"], ["measure", "to", "do"],
                     "1 of 2 stages to do (--needs shows what each reads)".split()]
    print_plan("tiny in build", STAGES, True, None, None)
    told = capsys.readouterr().out
    assert "0123456789ab" in told and told.count("engine_11.onnxruntime.cpu_x86") == 2


def test_the_default_recipes_lines_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    name = "contract_int8.tensorrt_rtx.sm75+sm80+sm86+sm89+sm120+sm121"
    print_plan("tiny", [Stage(name, "0", Path("x"), False, 0.0, ())], False, None, None)
    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 80


def test_missing_data_draws_no_empty_table(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(recipe, ["data={source: folder, train: nowhere}"]) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("missing: data.train: 'nowhere' is not in ")


def test_a_weight_file_that_is_missing_leaves_the_stages_before_it_on_show(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(recipe, ["model.weights=none.safetensors"]) == 2
    told = capsys.readouterr().out.splitlines()
    assert ["data", "to", "do"] in [line.split() for line in told] and told[-1].startswith("missing: model.weights: ")
    assert "known so far" in told[-2]


def test_a_dataset_that_would_be_downloaded_is_told_with_the_folder(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_plan(recipe, ["data.source=cifar10"], data_root=tmp_path / "sets") == 0
    assert f"cifar10 is not on disk: the build downloads it into {tmp_path / 'sets'}\n" in capsys.readouterr().out
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/cifar10.npz").touch()
    assert run_plan(recipe, ["data.source=cifar10"], data_root=tmp_path / "sets") == 0
    assert "download" not in capsys.readouterr().out


def test_the_command_line_takes_needs(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(recipe), "--out", str(tmp_path / "out"), "--needs"])
    assert not stop.value.code and "numpy, pillow" in capsys.readouterr().out

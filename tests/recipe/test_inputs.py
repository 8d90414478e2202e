"""A calibration set that is not there is told before training, with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.build import build
from toolchain.cli import main
from toolchain.errors import DataError
from toolchain.recipe.load import load_recipe
from toolchain.workdir import WorkDir


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\ndata: {source: digits}\nmodel: {arch: vgg11_bn}\nquantize:\n  method: ptq\n"
                    "  calibration:\n    set: nowhere\n")
    return path


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("command", ["validate", "plan", "build"])
def test_a_missing_calibration_set_is_told_with_file_line_and_field(
    command: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out") if command != "validate" else ()
    assert call(command, recipe, *out) == 3
    shown = capsys.readouterr()
    assert f"{recipe}:7: quantize.calibration.set: 'nowhere' exists neither in {tmp_path}" in shown.out + shown.err
    assert not (tmp_path / "out").exists()  # nothing was trained


def test_a_missing_set_of_an_override_is_told_by_the_override(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", recipe, "--set", "quantize.calibration.set=elsewhere") == 3
    assert "error: --set quantize.calibration.set=elsewhere: quantize.calibration.set: 'else" in capsys.readouterr().err


def test_a_folder_without_a_manifest_is_no_set_and_one_with_it_is(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nowhere").mkdir()
    assert call("validate", recipe) == 3 and "holds no manifest.json" in capsys.readouterr().err
    (tmp_path / "nowhere/manifest.json").write_text("{}")
    assert call("validate", recipe) == 0


def test_a_build_called_from_python_refuses_before_it_writes(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quantize.calibration.set: 'nowhere' exists neither"):
        build(load_recipe(recipe), WorkDir(tmp_path / "out"), tmp_path, [tmp_path])
    assert not (tmp_path / "out").exists()

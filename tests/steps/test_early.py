"""`validate`, `plan` and `build` say what the recipe alone tells, with file, line and field, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.cli import main

RECIPE = ("name: tiny\nmodel: {arch: vgg11_bn}\nengines:\n- {runtime: onnxruntime, precision: int8}\n"
          "limits:\n  int4:\n    top1: 99\n")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path / "tiny.yaml"


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("command", ["validate", "plan", "build"])
def test_limits_without_an_engine_are_refused_before_any_work(
    command: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out") if command != "validate" else ()
    assert call(command, recipe, *out, "--set", "limits.int8.faster=true") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: --set limits.int8.faster=true: limits.int8.faster: compares with an FP32 engine, but engines")
    assert second.startswith(f"{recipe}:7: limits.int4.top1: needs an engine of precision int4, but engines has none of it")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["validate", "plan", "build"])
def test_an_engine_that_stands_twice_is_refused_by_each_with_its_line(
    command: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text("name: tiny\nmodel: {arch: vgg11_bn}\nengines:\n- {runtime: openvino, precision: int8}\n"
                      "- {runtime: openvino, precision: int8, target: cpu_x86}\n")  # which is its default
    out = ("--out", tmp_path / "out") if command != "validate" else ()
    assert call(command, recipe, *out) == 2
    assert capsys.readouterr().err == (
        f"error: {recipe}:5: engines.1: int8.openvino.cpu_x86 stands in the list twice; remove one\n")
    assert not (tmp_path / "out").exists()


def test_validate_takes_several_files_and_tells_the_mistakes_of_all(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: good\nmodel: {arch: vgg11_bn}\n")
    bad.write_text("name: bad\nseed: x\nmodel: {arch: vgg11_bm}\n")
    assert call("validate", bad, good, recipe, tmp_path / "none.yaml") == 2
    shown = capsys.readouterr()
    assert shown.out == f"{good}: valid recipe 'good'\n"
    assert [line.removeprefix("error: ").split(": ")[0] for line in shown.err.splitlines()] == [
        f"{bad}:2", f"{bad}:3", f"{recipe}:7", f"{tmp_path}/none.yaml"]
    assert call("validate", good, good) == 0


def test_a_missing_calibration_set_beside_a_wrong_recipe_is_told_too(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unset = tmp_path / "unset.yaml"
    unset.write_text("name: a\nmodel: {arch: vgg11_bn}\nquantize: {method: ptq, calibration: {set: nowhere}}\n")
    assert call("validate", unset, recipe) == 2 and "quantize.calibration.set: 'nowhere'" in capsys.readouterr().err
    assert call("validate", unset) == 3

"""Every mistake of every row is named before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.errors import DataError, RecipeError, ToolchainError
from toolchain.recipe.study import load_study
from toolchain.study.plan import plan_runs

Write = Callable[..., Path]
HEAD = "name: s\nseeds: [0, 1]\nrows:\n"


def complaint(path: Path, out: Path, kind: type[ToolchainError] = RecipeError, *overrides: str) -> str:
    with pytest.raises(kind) as caught:
        plan_runs(load_study(path), out, overrides)
    assert not out.exists(), "nothing was begun"
    return str(caught.value)


def test_rows_times_seeds_the_first_seed_of_every_row_first(write: Write, tmp_path: Path) -> None:
    runs = plan_runs(load_study(write()), tmp_path / "out")
    assert [(run.row, run.seed, run.recipe.seed) for run in runs] == [
        ("plain", 0, 0), ("smoothed", 0, 0), ("plain", 1, 1), ("smoothed", 1, 1)]
    assert [run.recipe.train.label_smoothing for run in runs] == [0.0, 0.1, 0.0, 0.1]
    assert len({run.work for run in runs}) == 4 and {run.cache for run in runs} == {tmp_path / "out" / "cache"}


def test_a_rows_override_beats_the_studys_and_the_command_lines_beats_both(write: Write, tmp_path: Path) -> None:
    text = "name: s\nseeds: [0]\nset: [train.epochs=3]\nrows:\n  a: {recipe: tiny.yaml}\n  b: {recipe: tiny.yaml, set: [train.epochs=5]}\n"
    file = load_study(write(text))
    assert [run.recipe.train.epochs for run in plan_runs(file, tmp_path / "out")] == [3, 5]
    assert [run.recipe.train.epochs for run in plan_runs(file, tmp_path / "out", ["train.epochs=7"])] == [7, 7]


def test_all_rows_are_read_before_any_is_refused(write: Write, tmp_path: Path) -> None:
    told = complaint(write(HEAD + "  a: {recipe: none.yaml}\n  b: {recipe: tiny.yaml}\n"
                           "  c: {recipe: tiny.yaml, set: [train.epoch=1, model.arch=vgg12]}\n"), tmp_path / "out")
    assert "study.yaml:4: rows.a: recipe: 'none.yaml' exists neither in" in told
    mistakes = told[told.index("study.yaml:6: rows.c: "):]
    assert "--set train.epoch=1: train.epoch: unknown key" in mistakes and "did you mean 'epochs'?" in mistakes
    assert "--set model.arch=vgg12" in mistakes
    assert "rows.b" not in told


def test_missing_data_is_found_before_training(write: Write, tmp_path: Path) -> None:
    told = complaint(write(HEAD + "  a: {recipe: tiny.yaml}\n  b: {recipe: tiny.yaml, set: ['data={source: folder, train: nowhere}']}\n"),
                     tmp_path / "out", DataError)
    assert "study.yaml:5: rows.b: " in told and "nowhere" in told


def test_a_teacher_that_does_not_exist_is_found_before_training(write: Write, tmp_path: Path) -> None:
    told = complaint(write(HEAD + "  a: {recipe: tiny.yaml, set: ['distill={method: soft_targets, teacher: {recipe: none.yaml}}']}\n"),
                     tmp_path / "out")
    assert "rows.a: distill.teacher.recipe: 'none.yaml' exists neither in" in told


def test_the_engine_that_counts_must_be_built(write: Write, tmp_path: Path) -> None:
    rows = "rows:\n  a: {recipe: tiny.yaml}\n"
    told = complaint(write("name: s\nseeds: [0]\nengine: int8.onnxruntime.cpu_x86\n" + rows), tmp_path / "out")
    assert "rows.a: the recipe builds no engine 'int8.onnxruntime.cpu_x86'" in told and "fp32.onnxruntime.cpu_x86" in told


SWEEP = """
name: s
seeds: [0]
set: ["quantize={{method: gpfq, alphabet: study}}", "engines=[{{runtime: onnxruntime, precision: fp32}}, {{runtime: onnxruntime, precision: {precision}}}]"]
sweep: {{bits: [{bits}]}}
rows: {{a: {{recipe: tiny.yaml}}}}
"""


def test_a_sweep_builds_no_integer_engine_where_its_integers_hold_no_codes(write: Write, tmp_path: Path) -> None:
    runs = plan_runs(load_study(write(SWEEP.format(precision="int8_weight_only", bits="7, 8"))), tmp_path / "out")
    # 2^7 + 1 levels fit INT8, 2^8 + 1 do not and run as floats
    assert [[e.precision for e in run.recipe.engines or ()] for run in runs] == [["fp32", "int8_weight_only"], ["fp32"]]
    assert [run.engine.split(".")[0] for run in runs] == ["int8_weight_only", "fp32"]


@pytest.mark.parametrize(("precision", "bits", "told"), [
    ("int4", "3, 6", "engines.1: int4 does not hold the 6-bit study codes of quantize: gpfq; use precision int8_weight_only or int8"),
    ("int8_weight_only", "8", "engines.1: int8_weight_only does not hold the 8-bit study codes of quantize: gpfq; use precision fp32")])
def test_a_sweep_whose_engines_hold_the_codes_nowhere_is_refused(write: Write, tmp_path: Path, precision: str, bits: str, told: str) -> None:
    assert told in complaint(write(SWEEP.format(precision=precision, bits=bits)), tmp_path / "out")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes" / "studies").glob("digits_*.yaml")), ids=lambda p: p.stem)
def test_a_shipped_study_on_digits_can_be_built(path: Path, tmp_path: Path) -> None:
    file = load_study(path)
    assert len(plan_runs(file, tmp_path / "out")) == len(file.study.seeds) * len(file.study.rows)

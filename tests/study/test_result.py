"""From finished runs to the table: made-up outcomes whose sums are done by hand."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from toolchain.recipe.study import load_study
from toolchain.study import cells
from toolchain.study.console_table import print_study
from toolchain.study.figures import Outcome
from toolchain.study.html import render_html
from toolchain.study.markdown import render_markdown
from toolchain.study.plot import dot_plot
from toolchain.study.result import Difference, Failed, Outcomes, StudyResult, _wide, summed_up

SPLIT = "ab" * 32
N = 1000


def outcome(top1: float, epochs: int = 4, split: str = SPLIT, **figures: float) -> Outcome:
    right = {"top1": np.arange(N) < round(N * top1 / 100)}
    return Outcome({"top1": top1, **figures}, right, epochs, N, split)


@pytest.fixture
def sum_up(write: Callable[..., Path]) -> Callable[[Outcomes], StudyResult]:
    file = load_study(write("name: s\nseeds: [0, 1, 2]\ncontrol: plain\nmetrics: [top1, kl, seconds]\nrows:\n"
                            "  plain: {recipe: tiny.yaml}\n  taught: {recipe: tiny.yaml, set: [train.epochs=2]}\n"))
    runs: list[Any] = [type("Run", (), {"row": row, "seed": seed, "engine": "fp32.onnxruntime.cpu_x86"})()
                       for seed in (0, 1, 2) for row in ("plain", "taught")]
    return lambda outcomes: summed_up(file, runs, outcomes)


def six(shift: float = 10.0, **how: Any) -> dict[tuple[str, int], Outcome | Failed]:
    """Control 60, 61, 62; taught `shift`, `shift` + 1, `shift` + 2 above, in that order of seeds."""
    plain = {("plain", seed): outcome(60.0 + seed, kl=1.0) for seed in (0, 1, 2)}
    return plain | {("taught", seed): outcome(60.0 + 2 * seed + shift, kl=0.5, **how) for seed in (0, 1, 2)}


def test_a_row_is_summed_up_and_compared_seed_by_seed(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up(six())
    plain, taught = result.rows
    assert (plain.figures["top1"].mean, plain.figures["top1"].std) == (61.0, pytest.approx(1.0))
    assert (taught.figures["top1"].mean, taught.figures["top1"].std) == (72.0, pytest.approx(2.0))
    difference = taught.versus_control["top1"]  # 10, 11, 12: half = 4.302653 / sqrt(3) = 2.484
    assert (difference.mean, difference.low, difference.high) == (11.0, pytest.approx(8.516, abs=1e-3), pytest.approx(13.484, abs=1e-3))
    assert difference.verdict == "higher"
    assert taught.versus_control["kl"].verdict == "lower"
    assert plain.versus_control == {}
    assert result.metrics == ["top1", "kl"], "no run has `seconds`"
    assert cells.figure_cell("top1", plain.figures["top1"]) == ("61.00 ± 1.00", "58.52 to 63.48")
    assert cells.difference_cell("top1", difference)[0] == "+11.00 higher"


def test_a_small_difference_is_none(sum_up: Callable[..., StudyResult]) -> None:
    difference = sum_up(six(shift=-1.0)).rows[1].versus_control["top1"]  # -1, 0, 1
    assert difference.verdict == "no difference"
    assert cells.difference_cell("top1", difference) == (
        "no difference", f"0.00; −2.48 to +2.48, images {difference.images_low:+.2f} to {difference.images_high:+.2f}".replace("-", "−"))


def shown(result: StudyResult) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_study(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_difference_is_always_shown_with_its_mean_and_interval(sum_up: Callable[..., StudyResult]) -> None:
    wide = {("taught", seed): outcome(top1) for seed, top1 in ((0, 75.0), (1, 86.0), (2, 97.0))}  # +15, +25, +35
    result = sum_up({**six(), **wide})  # 25 +- 4.302653 * 10 / sqrt(3) = 24.84
    assert result.rows[1].versus_control["top1"].verdict == "higher"
    wide["taught", 2] = outcome(99.0)  # +15, +25, +37: std 11.015, half 27.363
    result = sum_up({**six(), **wide})
    told = "+25.67; −1.70 to +53.03"
    assert result.rows[1].versus_control["top1"].verdict == "no difference"
    assert re.search(rf"taught +no difference +{re.escape(told)}", shown(result))
    assert f"no difference ({told}" in render_markdown(result) and f"no difference<small>{told}" in render_html(result)


def test_few_seeds_say_that_no_difference_is_undecided(sum_up: Callable[..., StudyResult]) -> None:
    note = 'n = 3: the interval over seeds is wide; "no difference" means undecided here.'
    result = sum_up(six(shift=-1.0))
    assert result.undecided == note and note in result.notes and note in shown(result)
    assert sum_up(six()).undecided == "", "a difference that is there is decided"
    same = {("taught", seed): outcome(60.0 + seed) for seed in (0, 1, 2)}
    assert sum_up({**six(), **same}).undecided == "", "equal on every seed"


def test_a_wide_interval_of_many_seeds_is_undecided_too() -> None:
    found = Difference(n=6, mean=1.0, std=6.0, low=-5.1, high=7.1, images_low=None, images_high=None, verdict="no difference")
    assert _wide("top1", found) and not _wide("kl", found), "12.2 points; nats have no such measure"
    assert not _wide("top1", found.model_copy(update={"low": -2.1})), "9.2 points"


def test_one_seed_has_neither_spread_nor_verdict(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up({key: value for key, value in six().items() if key[1] == 0})
    assert cells.figure_cell("top1", result.rows[0].figures["top1"]) == ("60.00", "")
    assert result.rows[1].versus_control["top1"].verdict == "one seed"
    assert cells.name_cell(result.rows[0], result) == ("plain", "control, 1 of 3 seeds")


def test_a_row_that_trained_longer_than_the_control_is_marked(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up(six(epochs=8))
    assert [row.budget_differs for row in result.rows] == [False, True]
    assert cells.epochs_cell(result.rows[1]) == ("8", "budget differs")
    assert any("Budget differs" in note for note in result.notes)
    assert not any("Budget differs" in note for note in sum_up(six()).notes)


def test_rows_on_other_test_images_are_not_compared_image_by_image(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up(six(split="cd" * 32))
    assert result.rows[1].versus_control["top1"].images_low is None
    assert cells.name_cell(result.rows[1], result) == ("taught", "other images")


def test_an_interval_of_a_share_stays_within_0_and_100(sum_up: Callable[..., StudyResult]) -> None:
    figure = sum_up({("plain", seed): outcome(99.0 + seed / 2) for seed in (0, 1, 2)}).rows[0].figures["top1"]
    assert figure.high == 100.0


def test_a_failed_run_is_told_and_the_rest_counts(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up({**six(), ("taught", 1): Failed("train: the loss is nan", 4)})
    assert (result.runs, result.runs_done) == (6, 5)
    assert result.rows[1].versus_control["top1"].n == 2
    assert cells.failure_lines(result) == ["taught, seed 1: train: the loss is nan"]
    for text in (render_markdown(result), render_html(result)):
        assert "taught, seed 1: train: the loss is nan" in text and "5 of 6 runs finished" in text


def test_nothing_finished_yet_is_a_table_too(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up({("plain", 0): Failed("no <data>", 3)})
    assert "no &lt;data&gt;" in render_html(result) and "no &lt;data&gt;" in render_markdown(result)
    assert StudyResult.model_validate_json(result.to_json()) == result


def test_the_plot_shows_every_seed_every_row_and_the_control(sum_up: Callable[..., StudyResult]) -> None:
    import xml.etree.ElementTree as Xml

    drawing = dot_plot(sum_up(six()), "top1")
    Xml.fromstring(drawing)
    assert drawing.count('class="seed"') == 6 and drawing.count('class="control"') == 1
    assert "taught: 72.00 ± 2.00, 95 % 67.03 to 76.97" in drawing  # 4.302653 * 2 / sqrt(3) = 4.968
    assert dot_plot(sum_up(six()), "seconds") == ""


def test_a_wide_interval_is_cut_so_that_the_dots_stay_apart(sum_up: Callable[..., StudyResult]) -> None:
    result = sum_up({key: value for key, value in six(shift=0.5).items() if key[1] < 2})  # two seeds: t is 12.7
    seen = sorted(float(x) for x in re.findall(r'class="seed" cx="([\d.]+)"', dot_plot(result, "top1")))
    assert seen[-1] - seen[0] > 150

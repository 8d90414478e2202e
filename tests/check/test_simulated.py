"""A thousand CI runs, simulated: how often an unchanged model is called a regression, and a real drop is not."""

from dataclasses import replace

import numpy as np
from check_runs import FP32, INT8, images, made, times, wrong_at

from toolchain.check.accuracy import accuracy_findings
from toolchain.check.baseline import make_baseline
from toolchain.check.finding import Tolerances, overall
from toolchain.check.judge import check
from toolchain.check.paired import images_needed
from toolchain.measure.latency import round_ratios

RUNS, ASKED = 1000, Tolerances()
LOST, GAINED = 0.006, 0.006  # share of images that another build of the same model answers otherwise
TESTS = 3  # two engines against the baseline, one against FP32


def needed(lost, gained):
    """What the gate itself states for so many discordant images."""
    return images_needed(lost + gained, ASKED.margin_points / 100, ASKED.alpha / 2 / TESTS, ASKED.beta)


def another(rng, codes, lost, gained):
    """The same model built anew (codes: 0 is right): in all, a share `lost` of the images is lost, and `gained` gained."""
    right, draw = codes == 0, rng.random(len(codes), np.float32)
    lose, gain = right & (draw < lost / right.mean()), ~right & (draw < gained / (1 - right.mean()))
    return np.where(lose, 1, np.where(gain, 0, codes))


def start(n):
    """A run whose engines are wrong on 8 % of the images."""
    labels, keys = images(n)
    rng = np.random.default_rng(1)
    return made(labels, keys, {name: wrong_at(labels, np.flatnonzero(rng.random(n) < 0.08)) for name in (FP32, INT8)})


def test_false_alarms_of_a_thousand_unchanged_runs_are_at_most_one_percent_and_nearly_all_pass():
    first = start(needed(LOST, GAINED) * 5 // 4)  # so that nearly each is decided
    before, rng = make_baseline(first), np.random.default_rng(2)
    outcomes = []
    for i in range(RUNS):
        now = {name: another(rng, codes, LOST, GAINED) for name, codes in first.codes.items()}
        slower_day = round_ratios(times(5, 2 * i + 2), times(1.25, 2 * i + 3))
        outcomes.append(overall(check(replace(first, codes=now, ratios={INT8: slower_day}), before, ASKED)))
    assert outcomes.count("regression") <= 0.01 * RUNS
    assert outcomes.count("pass") >= 0.9 * RUNS


def test_a_drop_of_the_margin_is_found_in_nine_of_ten_runs_of_the_stated_size():
    drop = ASKED.margin_points / 100
    first = start(needed(LOST + drop, GAINED))
    before, rng = make_baseline(first), np.random.default_rng(3)
    found = 0
    for _ in range(RUNS):
        worse = {FP32: first.codes[FP32], INT8: another(rng, first.codes[INT8], LOST + drop, GAINED)}
        found += overall(accuracy_findings(replace(first, codes=worse), before, ASKED)) == "regression"
    assert found >= 0.9 * RUNS

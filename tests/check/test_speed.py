import numpy as np
import pytest

from toolchain.check.speed import FEWEST_ROUNDS, medians, rounds_needed, slowdown


def ratios(centre, seed, rounds=20, noise=0.02):
    return centre * (1 + noise * np.random.default_rng(seed).standard_normal(rounds))


def test_the_value_is_the_ratio_of_the_medians():
    found = slowdown(np.full(20, 4.0), np.full(20, 3.2), 0.1, 0.01)
    assert found.value == found.low == found.high == pytest.approx(1.25)
    assert found.outcome == "regression"


def test_an_interval_within_the_tolerance_passes_and_one_beyond_it_is_a_regression():
    assert slowdown(ratios(4, 0), ratios(4, 1), 0.1, 0.01).outcome == "pass"
    assert slowdown(ratios(4, 0), ratios(4.4, 1), 0.1, 0.01).outcome == "pass"  # faster
    assert slowdown(ratios(4, 0), ratios(3, 1), 0.1, 0.01).outcome == "regression"


def test_an_interval_across_the_limit_says_how_many_rounds_would_decide_and_they_do():
    near = slowdown(ratios(4, 0, 96, 0.2), ratios(4, 1, 96, 0.2), 0.1, 0.01)
    assert near.outcome == "not enough evidence" and near.low < 1.1 < near.high
    assert 96 < near.needed < 200 and 96 < near.baseline_needed < 200  # both spread alike
    assert slowdown(ratios(4, 0, 200, 0.2), ratios(4, 1, 200, 0.2), 0.1, 0.01).outcome == "pass"


def test_the_side_that_spreads_is_the_one_that_lacks_rounds():
    noisy, steady = ratios(4, 2, 40, 0.6), ratios(4, 1, 40, 0.01)
    found = slowdown(noisy, steady, 0.2, 0.01)
    assert found.outcome == "not enough evidence" and found.needed is None and found.baseline_needed > 40
    found = slowdown(steady, noisy, 0.2, 0.01)
    assert found.outcome == "not enough evidence" and found.baseline_needed is None and found.needed > 40
    found = slowdown(ratios(4, 0, FEWEST_ROUNDS - 1), ratios(4, 1), 0.1, 0.01)
    assert (found.needed, found.baseline_needed) == (None, FEWEST_ROUNDS)


def test_rounds_needed_by_hand():
    # the interval must shrink to half, so its variance to a quarter, of which each side has half: four times of both
    assert rounds_needed((20, 30), (1, 1), 0.2, 0.1) == (80, 120)
    # the baseline has 0.9 of the variance; 0.1 stays, so 0.9 must become 0.4: 20 * 0.9 / 0.4
    assert rounds_needed((20, 20), (9, 1), 0.2, 0.2 * 0.5**0.5) == (45, None)
    assert rounds_needed((20, 20), (1, 9), 0.2, 0.2 * 0.5**0.5) == (None, 45)
    assert rounds_needed((20, 20), (9, 1), 0.2, 0.06) == (230, 230)  # 20 * 0.04 / 0.0036 is 222; the other's tenth alone is too wide
    assert rounds_needed((20, 20), (1, 1), 0.2, 0.001) == (None, None)


def test_the_order_of_the_rounds_does_not_matter():
    before, after = ratios(4, 0), ratios(3.8, 1)
    assert slowdown(before, after, 0.1, 0.01) == slowdown(before[::-1], np.roll(after, 7), 0.1, 0.01)


def test_a_few_rounds_decide_nothing_but_the_same_measurement_is_as_fast_as_itself():
    few = ratios(4, 0, FEWEST_ROUNDS - 1)
    assert slowdown(few, ratios(4, 1, FEWEST_ROUNDS - 1), 0.1, 0.01).outcome == "not enough evidence"
    assert slowdown(few, few, 0.1, 0.01).outcome == "pass"


def test_bootstrap_medians_spread_as_the_median_of_a_normal_does():
    spread = medians(ratios(1, 3, rounds=400, noise=0.1), 0).std()
    assert spread == pytest.approx(0.1 * np.sqrt(np.pi / 2 / 400), rel=0.3)  # the median's standard error

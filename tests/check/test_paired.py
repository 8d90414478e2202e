import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from toolchain.check.paired import Differences, coin_bound, coin_tail, differences, holm, images_needed, judge, z

ALPHA, BETA, MARGIN = 0.001, 0.1, 0.005


def mcnemar(n, lost, gained):
    return Differences(n, lost, gained, lost + gained)


def test_differences_are_summed_by_sign():
    found = differences(np.array([1, 0, -1, 2, 1, 0]))
    assert found == Differences(images=6, worse=4, better=1, squares=7)
    assert found.drop == pytest.approx(3 / 6)


def test_the_tail_of_coins_is_the_binomials():
    assert coin_tail(9, 10) == pytest.approx(11 / 1024)  # ten ways to nine heads, one to ten
    assert coin_tail(0, 0) == 1
    for coins in (1, 7, 40, 300):
        for heads in range(0, coins + 1, max(1, coins // 10)):
            assert coin_tail(heads, coins) == pytest.approx(binom.sf(heads - 1, coins, 0.5), abs=1e-12)
    assert coin_tail(1080, 2000) == pytest.approx(binom.sf(1079, 2000, 0.5), rel=0.02)  # the normal's


def test_the_bound_of_a_coin_is_clopper_and_pearsons():
    for heads, coins in ((0, 5), (1, 5), (3, 9), (9, 9), (12, 17)):
        exact = binomtest(heads, coins).proportion_ci(0.8, "exact").high  # two-sided 80 % is one-sided 90 %
        assert coin_bound(heads, coins, 0.1) == pytest.approx(exact, abs=1e-9)
    assert coin_bound(0, 0, 0.1) == 0.5


def test_the_images_needed_solve_their_equation():
    n = images_needed(0.01, MARGIN, ALPHA, BETA)
    slope = norm.isf(ALPHA) + norm.isf(BETA)
    assert z(ALPHA) == pytest.approx(norm.isf(ALPHA))
    assert n * MARGIN >= slope * math.sqrt(n * 0.01) + 1 > (n - 1) * MARGIN - 0.1
    assert slope**2 * 0.01 / MARGIN**2 < n < 1.15 * slope**2 * 0.01 / MARGIN**2  # the textbook's, and a little


def test_a_drop_beyond_chance_is_a_regression_and_a_small_sample_decides_nothing():
    assert judge(mcnemar(10_000, 100, 30), MARGIN, ALPHA, BETA).outcome == "regression"  # 70 > 3.09 sqrt(130) + 1
    assert judge(mcnemar(10_000, 50, 48), MARGIN, ALPHA, BETA).outcome == "pass"  # (2 + 12.7) / 10,000 < 0.5 %
    found = judge(mcnemar(500, 12, 8), MARGIN, ALPHA, BETA)
    assert found.outcome == "not enough evidence" and found.needed > 500
    assert found.drop == pytest.approx(0.008)


def test_identical_answers_pass_on_any_test_set():
    found = judge(mcnemar(100, 0, 0), MARGIN, ALPHA, BETA)
    assert (found.outcome, found.drop, found.bound) == ("pass", 0, 0)


def test_few_discordant_images_are_judged_by_how_coins_fall():
    ten = judge(mcnemar(1000, 10, 0), MARGIN, ALPHA, BETA)
    assert ten.outcome == "regression" and ten.significant  # 1 / 1024 < 0.001; a normal with its correction says 9 < 9.8
    assert judge(mcnemar(1000, 9, 0), MARGIN, ALPHA, BETA).outcome == "not enough evidence"  # 1 / 512


def test_a_real_drop_far_below_the_margin_passes_and_one_near_it_does_not():
    small = judge(mcnemar(1_000_000, 500, 300), MARGIN, ALPHA, BETA)  # 0.02 points, beyond doubt
    assert small.significant and small.outcome == "pass"
    near = judge(mcnemar(1_000_000, 3000, 1000), MARGIN, ALPHA, BETA)  # 0.2 points: more than a fifth of 0.5
    assert near.significant and near.outcome == "regression"


def test_an_allowed_loss_is_no_regression_and_more_is():
    known = mcnemar(10_000, 130, 30)  # one point
    assert judge(known, MARGIN, ALPHA, BETA).outcome == "regression"
    assert judge(known, MARGIN, ALPHA, BETA, allowed=0.01).outcome == "pass"
    assert judge(mcnemar(10_000, 230, 30), MARGIN, ALPHA, BETA, allowed=0.01).outcome == "regression"


@given(st.integers(0, 400), st.data(), st.sampled_from([0.01, 0.001, 1e-5]), st.sampled_from([0.0, 0.004]))
def test_from_the_stated_number_of_images_on_it_is_always_decided(coins, data, alpha, allowed):
    lost = data.draw(st.integers(0, coins))
    n = max(coins, 1)
    while n < images_needed(coins / n, MARGIN, alpha, BETA):  # the same images, more often alike
        n = images_needed(coins / n, MARGIN, alpha, BETA)
    assert judge(mcnemar(n, lost, coins - lost), MARGIN, alpha, BETA, allowed).outcome in ("pass", "regression")
    assert judge(mcnemar(7 * n, lost, coins - lost), MARGIN, alpha, BETA, allowed).outcome in ("pass", "regression")


@given(st.lists(st.sampled_from([-2, -1, 0, 0, 0, 1, 2]), min_size=1, max_size=300), st.integers(1, 10_000))
def test_differences_of_two_losses_are_decided_as_well(values, more):
    found = differences(np.array(values))
    n = len(values) + more
    padded = Differences(n, found.worse, found.better, found.squares)
    decided = judge(padded, MARGIN, ALPHA, BETA).outcome != "not enough evidence"
    assert decided or n < images_needed(found.squares / n, MARGIN, ALPHA, BETA)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 200))
def test_more_losses_never_look_better(n, lost, gained):
    order = ["pass", "not enough evidence", "regression"]
    outcomes = [judge(mcnemar(20 * n + lost + gained + 1, lost + more, gained), MARGIN, ALPHA, BETA) for more in (0, 1)]
    assert outcomes[0].bound <= outcomes[1].bound + 1e-12
    assert order.index(outcomes[0].outcome) <= order.index(outcomes[1].outcome)


def test_the_chance_of_a_false_alarm_is_at_most_alpha_whatever_is_discordant():
    """Summed exactly over every way that discordant images can fall, for each number of them."""
    for alpha in (0.01, 0.001, 0.0001):
        for coins in (1, 5, 10, 15, 18, 19, 25, 40, 80, 200, 600):
            alarms = sum(binom.pmf(lost, coins, 0.5) for lost in range(coins + 1)
                         if judge(mcnemar(10_000, lost, coins - lost), MARGIN, alpha, BETA).significant)
            assert alarms <= alpha


def test_holm_rejects_step_by_step():
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]  # 0.005 < .0125, 0.01 < .0167, 0.03 > .025
    assert holm([], 0.05) == [] and holm([0.2], 0.05) == [False]

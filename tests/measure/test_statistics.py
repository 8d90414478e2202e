import math

import numpy as np
import pytest

from toolchain.errors import DataError
from toolchain.measure.statistics import difference, over_seeds, paired_interval, t95


def test_the_interval_of_a_mean_is_1_96_standard_errors_wide_on_each_side():
    values = np.tile([0.0, 1.0], 500)  # mean 1/2, standard deviation 1/2, so s.e. = 0.5 / sqrt(1000)
    found, error = paired_interval(values, seed=0), 0.5 / math.sqrt(1000)
    assert found["value"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(0.5 + 1.96 * error, abs=0.15 * error)
    assert paired_interval(values, seed=0) == found != paired_interval(values, seed=1)


def test_values_that_are_all_equal_have_an_interval_of_no_width():
    assert paired_interval([2.5, 2.5, 2.5], seed=3) == {"value": 2.5, "low": 2.5, "high": 2.5}


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_no_values_or_some_that_are_not_finite_are_refused(values):
    with pytest.raises(DataError, match="expected one finite value per test image"):
        paired_interval(values, seed=0)


def test_a_difference_is_paired_and_names_its_verdict():
    """Image for image a is 1 above b, while each spreads over 100: unpaired, nothing could be said."""
    b = np.linspace(0, 100, 200)
    assert difference(b + 1, b, seed=0) == {
        "value": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1), "verdict": "higher"}
    assert difference(b, b + 1, seed=0)["verdict"] == "lower"


def test_an_interval_that_holds_zero_is_no_difference():
    equal = difference([1.0, 2.0], [1.0, 2.0], seed=0)
    assert equal == {"value": 0.0, "low": 0.0, "high": 0.0, "verdict": "no difference"}
    a = np.array([1.0, 0.0] * 50)
    a[0] = 0.0  # one of a hundred images lost, of 99 that differ either way: far below two standard errors
    found = difference(a, 1 - a, seed=0)
    assert found["value"] == pytest.approx(-0.02) and found["low"] < 0 < found["high"]
    assert found["verdict"] == "no difference"


def test_values_of_two_test_sets_are_refused():
    with pytest.raises(DataError, match="found 2 and 3 values"):
        difference([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)


def test_three_seeds_worked_by_hand():
    """Mean 2, sample variance (1 + 0 + 1) / 2 = 1, t(2 degrees of freedom) = 4.302653, half width t / sqrt 3."""
    half = 4.302653 / math.sqrt(3)
    assert over_seeds([1.0, 2.0, 3.0]) == {
        "n": 3, "mean": 2.0, "std": 1.0, "low": pytest.approx(2 - half), "high": pytest.approx(2 + half)}


def test_one_seed_has_a_mean_and_no_spread():
    assert over_seeds([61.5]) == {"n": 1, "mean": 61.5, "std": None, "low": None, "high": None}


def test_no_seed_is_refused():
    with pytest.raises(DataError, match="expected one finite number per seed"):
        over_seeds([])


@pytest.mark.parametrize(("freedom", "published"), [
    (1, 12.7062), (4, 2.7764), (10, 2.2281), (11, 2.2010), (12, 2.1788), (20, 2.0860), (30, 2.0423), (120, 1.9799)])
def test_students_t_is_the_published_one(freedom, published):
    assert t95(freedom) == pytest.approx(published, abs=6e-5)

"""What seeds and test images allow to say about a difference."""

import math

import numpy as np
import pytest

from toolchain.study.compare import Interval, Spread, paired_by_image, paired_by_seed, spread, verdict


def test_three_seeds_worked_by_hand() -> None:
    found = spread({0: 90.0, 1: 92.0, 2: 94.0})
    half = 4.302653 * 2.0 / math.sqrt(3)  # t(0.975, 2) of any table; the sample's std is sqrt((4 + 0 + 4) / 2) = 2
    assert (found.n, found.mean, found.std) == (3, 92.0, pytest.approx(2.0))
    assert (found.low, found.high) == (pytest.approx(92.0 - half, abs=1e-4), pytest.approx(92.0 + half, abs=1e-4))


def test_pairing_takes_out_what_the_seeds_have_in_common() -> None:
    found = paired_by_seed({0: 91.0, 1: 72.0, 2: 83.0}, {0: 90.0, 1: 70.0, 2: 80.0})  # differences 1, 2, 3
    assert found is not None
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert (found.mean, found.std) == (2.0, pytest.approx(1.0))
    assert (found.low, found.high) == (pytest.approx(2.0 - half, abs=1e-4), pytest.approx(2.0 + half, abs=1e-4))


def test_only_seeds_that_both_rows_have_are_paired() -> None:
    found = paired_by_seed({0: 5.0, 1: 100.0}, {0: 3.0, 2: 0.0})
    assert found == Spread(1, 2.0, None, None, None)
    assert paired_by_seed({0: 1.0}, {1: 1.0}) is None


def test_the_image_interval_is_that_of_the_normal_approximation() -> None:
    n = 10_000
    right, control = np.zeros(n, bool), np.zeros(n, bool)
    right[:600], control[400:800] = True, True  # 400 images won, 200 lost, 200 both: +2 points
    found = paired_by_image({0: right}, {0: control})
    assert found is not None
    variance = (400 + 200) / n - 0.02**2
    half = 100 * 1.959964 * math.sqrt(variance / n)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=0.05), pytest.approx(2 + half, abs=0.05))


def test_an_image_counts_with_its_mean_over_the_seeds() -> None:
    first, second = np.array([True, False]), np.array([False, True])
    found = paired_by_image({0: first, 1: second}, {0: second, 1: first})  # each image: +1 and -1
    assert found == Interval(0.0, 0.0)


def test_networks_that_answer_alike_do_not_differ() -> None:
    right = np.array([True, False, True])
    assert paired_by_image({0: right}, {0: right}) == Interval(0.0, 0.0)
    assert paired_by_image({0: right}, {1: right}) is None


@pytest.mark.parametrize(("low", "high", "images", "expected"), [
    (0.1, 0.9, None, "higher"), (-0.9, -0.1, None, "lower"), (-0.1, 0.9, None, "no difference"),
    (0.0, 1.0, None, "no difference"), (0.1, 0.9, Interval(0.2, 0.8), "higher"),
    (0.1, 0.9, Interval(-0.2, 0.8), "no difference"), (None, None, Interval(0.2, 0.8), "one seed"),
])
def test_a_difference_is_one_only_where_no_interval_holds_zero(
        low: float | None, high: float | None, images: Interval | None, expected: str) -> None:
    mean = (low + high) / 2 if low is not None and high is not None else 0.5
    assert verdict(Spread(3, mean, 0.1, low, high), images) == expected


def test_equal_differences_on_every_seed_are_not_taken_for_certainty() -> None:
    by_seed = paired_by_seed({0: 50.5, 1: 50.5}, {0: 50.0, 1: 50.0})  # one image of 200, twice: std 0
    right = np.arange(200) < 101
    control = np.arange(200) < 100
    by_image = paired_by_image({0: right, 1: right}, {0: control, 1: control})
    assert by_seed is not None and by_seed.std == 0
    assert verdict(by_seed, by_image) == "no difference"

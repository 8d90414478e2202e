"""The law against curves that follow it exactly, and against the ten curves of a published study."""

import math
import re

import pytest

from toolchain.study.law import Fit, fit, not_a_law

BITS = (2, 3, 4, 5, 6, 7, 8)
# top-1 % at 2 … 8 bits of a ResNet-50 teacher and ResNet-18 students on CIFAR-100 and CIFAR-10, then a, A, k and rmse
# of the least-squares fit found once by scipy.optimize.curve_fit
PUBLISHED = {
    "c100 teacher": ((66.63, 74.17, 75.06, 75.84, 75.73, 75.78, 75.80), 75.74, 9.10, 1.68, 0.16),
    "c100 vkd": ((26.23, 47.65, 59.75, 65.93, 68.70, 69.85, 70.54), 71.69, 45.63, 0.66, 0.33),
    "c100 mixup": ((33.07, 46.50, 57.10, 60.33, 61.83, 61.77, 62.16), 63.19, 30.56, 0.71, 0.93),
    "c100 dml": ((19.22, 37.06, 52.96, 62.94, 65.98, 69.89, 70.87), 75.51, 57.12, 0.46, 1.24),
    "c100 dkd": ((22.20, 33.11, 44.78, 49.76, 52.20, 52.76, 52.85), 55.31, 33.91, 0.54, 1.25),
    "c10 teacher": ((90.90, 91.29, 91.55, 91.60, 91.88, 91.88, 92.00), 92.15, 1.23, 0.33, 0.05),
    "c10 vkd": ((71.87, 82.40, 86.47, 88.78, 88.89, 89.36, 89.69), 89.65, 17.78, 0.89, 0.19),
    "c10 mixup": ((88.12, 92.63, 94.2, 95.09, 95.21, 95.18, 95.45), 95.38, 7.25, 0.96, 0.09),
    "c10 dml": ((82.39, 86.98, 90.45, 91.84, 92.00, 92.43, 92.54), 92.85, 10.59, 0.68, 0.28),
    "c10 dkd": ((61.06, 69.69, 77.69, 81.76, 83.45, 84.16, 84.39), 86.12, 25.53, 0.53, 0.73),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_curves_give_the_published_fit(name: str) -> None:
    accuracy, a, amplitude, k, rmse = PUBLISHED[name]
    found = fit(BITS, accuracy)
    assert (found.a, found.amplitude) == (pytest.approx(a, abs=0.006), pytest.approx(amplitude, abs=0.006))
    assert (found.k, found.rmse) == (pytest.approx(k, abs=0.006), pytest.approx(rmse, abs=0.006))
    assert found.determined and not_a_law(found) is None


def test_a_curve_that_follows_the_law_is_found_exactly() -> None:
    found = fit(BITS, [90 - 32 * 0.5 ** (b - 2) for b in BITS])  # k = ln 2; 90 - 32, 90 - 16, ...
    assert (found.a, found.amplitude, found.k) == (pytest.approx(90), pytest.approx(32), pytest.approx(math.log(2)))
    assert found.rmse < 1e-6 and found.at(3) == pytest.approx(74)
    assert found.bits_for_one_point == pytest.approx(7)  # 32 / 2^5 = 1


def test_what_two_bits_already_reach_needs_two() -> None:
    assert fit(BITS, [90 - 0.5 * 0.5 ** (b - 2) for b in BITS]).bits_for_one_point == 2.0


@pytest.mark.parametrize("accuracy", [(90.0,) * 7, (95.0, 94.0, 93.5, 93.2, 93.1, 93.0, 93.0)], ids=["flat", "falling"])
def test_a_curve_that_does_not_rise_determines_nothing(accuracy: tuple[float, ...]) -> None:
    found = fit(BITS, accuracy)
    assert not found.determined and found.bits_for_one_point is None


@pytest.mark.parametrize(("accuracy", "said"), [
    ((90.0,) * 7, "accuracy does not rise with bits"),
    ((95.0, 94.0, 93.5, 93.2, 93.1, 93.0, 93.0), "accuracy does not rise with bits"),
    ((40, 90, 90, 90, 90, 90, 90), "flat from 3 bits on, at a = 90.00 %, 50.00 points above 2 bits"),
    ((20, 30, 40, 50, 60, 70, 80), "a straight line"),
    ((10, 12, 60, 85, 90, 91, 91), r"of another form: .* misses it by 10.63 points \(RMSE; at most 4.05\)"),  # 81 / 20
    (tuple(150 - 120 * 0.9 ** (b - 2) for b in BITS), "tends to 150.0 %, above 100"),
], ids=["flat", "falling", "a step", "a line", "chance first", "beyond 100"])
def test_a_fit_that_is_no_law_says_why(accuracy: tuple[float, ...], said: str) -> None:
    assert re.search(said, str(not_a_law(fit(BITS, accuracy))))


def test_errors_that_the_seeds_explain_are_no_reason_to_refuse() -> None:
    noisy = Fit(a=90.0, amplitude=5.0, k=0.7, rmse=1.9, gain=6.0)  # one point, or a twentieth of 6: neither is 1.9
    assert "of another form" in str(not_a_law(noisy, 0.5)) and not_a_law(noisy, 1.0) is None

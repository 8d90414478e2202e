import pytest

from toolchain.engines.progress import Fraction


def test_nested_phases_refine_their_parents_step():
    fraction = Fraction()
    fraction.start("build", None, 4)
    fraction.step("build", 0)
    assert fraction.done == 0.25  # 1 of 4
    fraction.start("kernels", "build", 10)
    fraction.step("kernels", 4)
    assert fraction.done == pytest.approx(0.375)  # 1 of 4, and 5 of 10 of the second
    fraction.finish("kernels")
    fraction.step("build", 1)
    assert fraction.done == 0.5


def test_it_never_falls_and_ends_at_one():
    fraction = Fraction()
    fraction.start("build", None, 2)
    fraction.step("build", 0)
    fraction.start("again", "build", 100)
    fraction.step("again", 0)
    assert fraction.done == pytest.approx(0.505)
    fraction.start("again", "build", 100)
    assert fraction.done == pytest.approx(0.505)
    fraction.finish("build")
    assert fraction.done == 1.0


def test_a_phase_that_was_never_announced_changes_nothing():
    fraction = Fraction()
    fraction.step("unknown", 3)
    assert fraction.done == 0.0

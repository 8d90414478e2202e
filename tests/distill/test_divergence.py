import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.distill.divergence import soft_target_loss


def test_soft_target_loss_equals_kl_worked_by_hand():
    student = torch.tensor([[0.0, 0.0]])  # probabilities 1/2, 1/2
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4, 1/4
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_target_loss(student, teacher, temperature=1.0).item() == pytest.approx(expected)


def test_temperature_softens_both_sides_and_scales_by_its_square():
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]], dtype=torch.float64)  # at T = 2: 3/4, 1/4
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_target_loss(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_is_a_mean_over_images_and_a_sum_over_classes():
    student = torch.zeros(2, 2)
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # the second image adds nothing
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert soft_target_loss(student, teacher, temperature=1.0).item() == pytest.approx(expected)


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.5, 20), classes=st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_the_gradient_is_temperature_times_q_minus_p_over_the_batch(seed, temperature, classes):
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(3, classes, generator=random, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, classes, generator=random, dtype=torch.float64)
    loss = soft_target_loss(student, teacher, temperature)
    assert loss.item() >= -1e-12
    (gradient,) = torch.autograd.grad(loss, student)
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    torch.testing.assert_close(gradient, temperature * (q - p).detach() / 3, rtol=1e-8, atol=1e-10)


def test_at_high_temperature_it_is_half_the_squared_difference_of_centred_logits_per_class():
    student = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 3.0, -3.0]], dtype=torch.float64)
    expected = (1 + 25 + 16) / (2 * 3)
    assert soft_target_loss(student, teacher, temperature=1e4).item() == pytest.approx(expected, rel=1e-3)


def test_logits_that_differ_by_a_constant_give_zero_loss_and_zero_gradient():
    teacher = torch.tensor([[0.3, -1.2, 2.0], [5.0, 1.0, -3.0]], dtype=torch.float64)
    student = (teacher + 7.5).requires_grad_(True)
    loss = soft_target_loss(student, teacher, temperature=4.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-8
    assert gradient.abs().max().item() < 1e-8


def test_half_precision_logits_are_computed_in_float32():
    student = torch.tensor([[0.0, 0.0]], dtype=torch.bfloat16)
    teacher = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = soft_target_loss(student, teacher, temperature=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)

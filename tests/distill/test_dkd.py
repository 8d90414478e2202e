import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from train_data import squares

from toolchain.data.loader import Batch
from toolchain.distill.dkd import decoupled_kl, dkd, dkd_loss
from toolchain.distill.objective import Setting
from toolchain.recipe.distill import Dkd
from toolchain.recipe.schema import Train
from toolchain.train import Progress

# teacher 1/2, 1/3, 1/6 and student 1/8, 5/8, 1/4; the label is class 0
STUDENT = torch.tensor([[1 / 8, 5 / 8, 1 / 4]], dtype=torch.float64).log()
TEACHER = torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64).log()
LABEL = torch.tensor([0])
TARGET = math.log(4) / 2 + math.log(4 / 7) / 2  # coins 1/2, 1/2 and 1/8, 7/8
NON_TARGET = 2 / 3 * math.log(14 / 15) + math.log(7 / 6) / 3  # 2/3, 1/3 and 5/7, 2/7


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def gradient_by_the_chain_rule(student, teacher, labels, temperature, alpha, beta) -> np.ndarray:
    """Image by image: T (alpha (q_y - p_y) (onehot - q_others) + beta (q_others - p_others)) / N."""
    rows = []
    for z, v, y in zip(student / temperature, teacher / temperature, labels, strict=True):
        q, p = softmax(z)[y], softmax(v)[y]
        q_others, p_others = (np.insert(softmax(np.delete(x, y)), y, 0) for x in (z, v))
        rows.append(alpha * (q - p) * (np.eye(len(z))[y] - q_others) + beta * (q_others - p_others))
    return temperature * np.stack(rows) / len(rows)


def draw(seed: int, images: int, classes: int, scale: float = 1.0):
    random = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(images, classes, generator=random, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (images,), generator=random)


def test_both_parts_equal_the_kl_worked_by_hand():
    target, non_target = decoupled_kl(STUDENT, TEACHER, LABEL, temperature=1.0)
    assert target.tolist() == pytest.approx([TARGET], rel=1e-12)
    assert non_target.tolist() == pytest.approx([NON_TARGET], rel=1e-12)


def test_student_and_teacher_are_not_interchangeable():
    target, non_target = decoupled_kl(TEACHER, STUDENT, LABEL, temperature=1.0)
    assert target.item() == pytest.approx(math.log(1 / 4) / 8 + 7 / 8 * math.log(7 / 4), rel=1e-12)
    assert non_target.item() == pytest.approx(5 / 7 * math.log(15 / 14) + 2 / 7 * math.log(6 / 7), rel=1e-12)


def test_the_loss_weighs_the_parts_and_scales_by_the_square_of_the_temperature():
    loss = dkd_loss(3 * STUDENT, 3 * TEACHER, LABEL, temperature=3.0, alpha=2.0, beta=8.0)
    assert loss.item() == pytest.approx(9 * (2 * TARGET + 8 * NON_TARGET), rel=1e-12)


def test_the_loss_is_a_mean_over_images_each_split_at_its_own_label():
    student, teacher = torch.cat([STUDENT, STUDENT.roll(2, 1), STUDENT]), torch.cat([TEACHER, TEACHER.roll(2, 1), STUDENT])
    loss = dkd_loss(student, teacher, torch.tensor([0, 2, 1]), temperature=1.0, alpha=1.0, beta=1.0)
    assert loss.item() == pytest.approx((TARGET + NON_TARGET) * 2 / 3, rel=1e-12)  # the third image adds nothing


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.5, 20), classes=st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_kl_is_the_target_part_plus_the_other_part_times_what_the_teacher_leaves_to_it(seed, temperature, classes):
    student, teacher, labels = draw(seed, 3, classes, scale=3.0)
    target, non_target = decoupled_kl(student, teacher, labels, temperature)
    for n, y in enumerate(labels.tolist()):
        p, q = softmax(teacher[n].numpy() / temperature), softmax(student[n].numpy() / temperature)
        assert (target[n] + (1 - p[y]) * non_target[n]).item() == pytest.approx((p * np.log(p / q)).sum(), rel=1e-8, abs=1e-14)


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.5, 20), classes=st.integers(2, 12),
       alpha=st.floats(0, 4), beta=st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_the_gradient_is_the_one_of_the_chain_rule(seed, temperature, classes, alpha, beta):
    student, teacher, labels = draw(seed, 4, classes)
    student.requires_grad_(True)
    (gradient,) = torch.autograd.grad(dkd_loss(student, teacher, labels, temperature, alpha, beta), student)
    expected = gradient_by_the_chain_rule(student.detach().numpy(), teacher.numpy(), labels.numpy(), temperature, alpha, beta)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_the_gradient_agrees_with_differences_of_the_loss():
    student, teacher, labels = draw(1, 3, 5)
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: dkd_loss(z, teacher, labels, 4.0, 1.0, 8.0), (student,))


def test_no_gradient_reaches_the_teacher():
    teacher, student = TEACHER.clone().requires_grad_(True), STUDENT.clone().requires_grad_(True)
    dkd_loss(student, teacher, LABEL, 4.0, 1.0, 8.0).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("scale", [60.0, 1e3, 1e4])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_extreme_logits_give_the_exact_loss_and_gradient_in_float32(scale, temperature):
    student, teacher, labels = (x.float() if x.is_floating_point() else x for x in draw(2, 16, 10, scale))
    student.requires_grad_(True)
    loss = dkd_loss(student, teacher, labels, temperature, 1.0, 8.0)
    (gradient,) = torch.autograd.grad(loss, student)
    wide = student.detach().double().numpy(), teacher.double().numpy()
    expected = 0.0
    for z, v, y in zip(wide[0] / temperature, wide[1] / temperature, labels.tolist(), strict=True):
        log_q, log_p = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (z, v))
        others = np.delete(np.arange(10), y)
        coins = [np.array([x[y], np.logaddexp.reduce(x[others])]) for x in (log_p, log_q)]
        rest = [x[others] - np.logaddexp.reduce(x[others]) for x in (log_p, log_q)]
        expected += sum(w * (np.exp(p) * (p - q)).sum() for w, (p, q) in zip((1, 8), (coins, rest), strict=True)) / 16
    assert loss.item() == pytest.approx(temperature**2 * expected, rel=1e-5)
    np.testing.assert_allclose(gradient.numpy(), gradient_by_the_chain_rule(*wide, labels.numpy(), temperature, 1.0, 8.0),
                               rtol=1e-3, atol=1e-4)


def test_one_logit_far_above_the_others_gives_finite_gradients_on_either_side():
    one_sided = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0], [-1e4, 0.0, 0.0]])
    for teacher in (one_sided, one_sided.roll(1, 0)):
        student = one_sided.clone().requires_grad_(True)
        loss = dkd_loss(student, teacher, torch.tensor([0, 0, 0]), 1.0, 1.0, 8.0)
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.grad.isfinite().all()


def test_with_two_classes_only_the_target_part_is_left():
    student, teacher, labels = draw(3, 5, 2)
    target, non_target = decoupled_kl(student.requires_grad_(True), teacher, labels, temperature=2.0)
    assert non_target.tolist() == [0.0] * 5
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    torch.testing.assert_close(target, (p * (p / q).log()).sum(1), rtol=1e-8, atol=1e-12)
    (gradient,) = torch.autograd.grad(non_target.sum(), student)
    assert not gradient.any()


def test_half_precision_logits_are_computed_in_float32_and_float64_stays():
    half = [x.to(torch.bfloat16) for x in (STUDENT, TEACHER)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dkd_loss(*half, LABEL, 1.0, 1.0, 8.0)
    exact = dkd_loss(*(x.double() for x in half), LABEL, 1.0, 1.0, 8.0)
    assert (loss.dtype, exact.dtype) == (torch.float32, torch.float64)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_the_section_weighs_the_label_loss_and_both_parts_and_warms_up():
    student, teacher = Fixed(STUDENT), Fixed(TEACHER)
    cfg = Dkd(method="dkd", teacher={"model": {"arch": "vgg11"}}, temperature=1.0, ce_weight=0.5, alpha=2.0, beta=3.0,
              warmup_epochs=4)
    loss = dkd(cfg, Setting(student, teacher, squares(), Train(), lambda seed: student))
    batch = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 0]), torch.arange(2))
    for epoch, rise in ((0, 1 / 4), (2, 3 / 4), (3, 1.0), (9, 1.0)):
        value = loss(student, batch, Progress(epoch, 10)).loss
        assert value.item() == pytest.approx(0.5 * math.log(8) + rise * (2 * TARGET + 3 * NON_TARGET), rel=1e-8)

import math

import numpy as np
import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.data.loader import Batch
from toolchain.distill import function_matching as module
from toolchain.distill.function_matching import function_matching, mix, mixing_share
from toolchain.distill.objective import Setting
from toolchain.recipe.distill import EarlyStop, FunctionMatching
from toolchain.recipe.schema import Train
from toolchain.train import Progress

TEACHER = {"model": {"arch": "vgg11"}}


class Watched(nn.Module):
    """A linear network that remembers the images it saw in training."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(12, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, images):
        if images.shape[-1] == 2:  # not the trial image of the dataset's size
            self.seen.append(images)
        return self.layer(images[..., :2, :2].flatten(1))

    def probabilities(self, images: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
        scores = images.flatten(1).double().numpy() @ self.layer.weight.detach().double().numpy().T
        powers = np.exp((scores + self.layer.bias.detach().double().numpy()) / temperature)
        return powers / powers.sum(axis=1, keepdims=True)


def section(**values) -> FunctionMatching:
    return FunctionMatching(method="function_matching", teacher=TEACHER, **values)


def setting(student: nn.Module, teacher: nn.Module) -> Setting:
    return Setting(student, teacher, squares(), Train(), lambda seed: small_net())


def batch(images: int = 4) -> Batch:
    pixels = torch.randn(images, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    return Batch(pixels, torch.arange(images) % 3, torch.arange(images))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_each_image_is_mixed_with_the_one_before_it():
    images = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    assert mix(images, 0.75).flatten().tolist() == [0.75 + 25, 7.5 + 0.25, 75 + 2.5]


def test_with_share_one_the_images_stay_as_they_are():
    images = torch.randn(4, 3, 5, 5)
    assert torch.equal(mix(images, 1.0), images)


def test_the_share_is_at_least_a_half_and_follows_the_seed():
    torch.manual_seed(3)
    first = [mixing_share(1.0) for _ in range(200)]
    torch.manual_seed(3)
    assert first == [mixing_share(1.0) for _ in range(200)]
    assert min(first) >= 0.5
    assert max(first) <= 1.0


def test_the_mean_share_is_three_quarters_for_beta_one_and_nears_the_ends_for_others():
    torch.manual_seed(4)
    for beta, expected in ((1.0, 0.75), (0.5, 0.5 + 1 / math.pi), (1e4, 0.5), (1e-3, 1.0)):  # arcsine law: 1/2 + 1/pi
        mean = sum(mixing_share(beta) for _ in range(1000)) / 1000
        assert mean == pytest.approx(expected, abs=0.03)


def test_with_share_one_it_is_plain_distillation_at_temperature_one(monkeypatch):
    monkeypatch.setattr(module, "mixing_share", lambda beta: 1.0)
    student, teacher, images = Watched(0), Watched(1), batch().images
    value = function_matching(section(kd_weight=2.0), setting(student, teacher))(student, batch(), Progress(0, 10)).loss
    assert value.item() == pytest.approx(2 * kl(teacher.probabilities(images), student.probabilities(images)), rel=1e-5)


def test_student_and_teacher_see_the_same_mix_once_per_batch(monkeypatch):
    monkeypatch.setattr(module, "mixing_share", lambda beta: 0.75)
    student, teacher, images = Watched(0), Watched(1), batch().images
    value = function_matching(section(temperature=2.0), setting(student, teacher))(student, batch(), Progress(0, 10)).loss
    mixed = torch.stack([0.75 * images[n] + 0.25 * images[n - 1] for n in range(4)])
    assert len(student.seen) == len(teacher.seen) == 1
    torch.testing.assert_close(student.seen[0], mixed)
    torch.testing.assert_close(teacher.seen[0], mixed)
    expected = 4 * kl(teacher.probabilities(mixed, 2.0), student.probabilities(mixed, 2.0))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_labels_play_no_part_while_the_teacher_speaks():
    student, teacher = Watched(0), Watched(1)
    loss = function_matching(section(), setting(student, teacher))
    gradients = []
    for labels in (batch().labels, batch().labels.flip(0)):
        torch.manual_seed(6)
        value = loss(student, batch()._replace(labels=labels), Progress(0, 10)).loss
        gradients.append(torch.autograd.grad(value, student.layer.weight)[0])
    assert torch.equal(*gradients)


def test_each_batch_draws_its_own_share():
    student, teacher = Watched(0), Watched(1)
    loss = function_matching(section(), setting(student, teacher))
    torch.manual_seed(7)
    for _ in range(2):
        loss(student, batch(), Progress(0, 10))
    assert not torch.equal(*teacher.seen)


def test_after_the_early_stop_the_labels_finish_on_unmixed_images():
    student, teacher = Watched(0), Watched(1)
    loss = function_matching(section(early_stop=EarlyStop(after=0.5)), setting(student, teacher))
    value = loss(student, batch(), Progress(5, 10)).loss
    assert torch.equal(student.seen[0], batch().images)
    assert not teacher.seen
    chosen = student.probabilities(batch().images)[np.arange(4), batch().labels.numpy()]
    assert value.item() == pytest.approx(-np.log(chosen).mean(), rel=1e-5)

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from train_data import SIZE, squares

from toolchain.data.loader import Batch
from toolchain.distill.attention_transfer import attention_loss, attention_map, attention_transfer
from toolchain.distill.objective import Setting
from toolchain.errors import TrainError
from toolchain.recipe.distill import AttentionTransfer
from toolchain.recipe.schema import Train
from toolchain.train import Progress

TEACHER = {"model": {"arch": "vgg11"}}


def section(**values) -> AttentionTransfer:
    return AttentionTransfer(method="attention_transfer", teacher=TEACHER, **values)


def net(*channels: int) -> nn.Sequential:
    """Stages of SIZE, SIZE / 2, …, each a convolution and an in-place ReLU: layers 0, 1; 3, 4; …"""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 3))


def setting(student: nn.Module, teacher: nn.Module) -> Setting:
    return Setting(student, teacher, squares(), Train(), lambda seed: net(4, 8))


def batch(count: int = 6) -> Batch:
    return Batch(torch.randn(count, 3, SIZE, SIZE), torch.arange(count) % 3, torch.arange(count))


def numpy_loss(student: np.ndarray, teacher: np.ndarray) -> float:
    """One pair of equal resolution, image by image."""
    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        maps = [(feature**2).sum(axis=0) for feature in (one, other)]  # the sum: the norm cancels 1 / C
        unit = [energy / math.sqrt((energy**2).sum()) for energy in maps]
        total += ((unit[0] - unit[1]) ** 2).mean()
    return total / len(student)


def test_the_attention_map_worked_by_hand():
    feature = torch.tensor([[[[1.0, 2.0]], [[1.0, -2.0]]]])  # means of squares 1 and 4, norm sqrt(17)
    assert attention_map(feature).flatten().tolist() == pytest.approx([1 / math.sqrt(17), 4 / math.sqrt(17)])


def test_the_loss_is_the_sum_over_pairs_of_mean_squared_differences():
    student = torch.tensor([[[[3.0, 0.0]]]])  # attention 1, 0
    teacher = torch.tensor([[[[0.0, 5.0]]]])  # attention 0, 1: mean of 1 and 1
    assert attention_loss([student], [teacher]).item() == pytest.approx(1.0)
    assert attention_loss([student, student], [teacher, student]).item() == pytest.approx(1.0)
    assert attention_loss([student, student], [teacher, teacher]).item() == pytest.approx(2.0)


def test_the_loss_equals_numpys_and_its_gradient_the_numeric_one():
    random = np.random.default_rng(1)
    own, other = random.normal(size=(3, 4, 2, 5)), random.normal(size=(3, 7, 2, 5))
    student = torch.tensor(own, requires_grad=True)
    loss = attention_loss([student], [torch.tensor(other)])
    assert loss.item() == pytest.approx(numpy_loss(own, other), rel=1e-10)
    loss.backward()
    step = 1e-6
    for where in ((0, 0, 0, 0), (1, 3, 1, 4), (2, 2, 0, 2)):
        ahead, behind = own.copy(), own.copy()
        ahead[where] += step
        behind[where] -= step
        numeric = (numpy_loss(ahead, other) - numpy_loss(behind, other)) / (2 * step)
        assert student.grad[where].item() == pytest.approx(numeric, rel=1e-5, abs=1e-9)


def test_the_loss_does_not_depend_on_the_scale_of_either_feature():
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    loss = attention_loss([student], [teacher]).item()
    assert attention_loss([1000 * student], [teacher / 1000]).item() == pytest.approx(loss, rel=1e-10)
    assert attention_loss([7 * teacher], [teacher]).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_averaged_to_the_smaller_ones_resolution(larger):
    random = np.random.default_rng(2)
    big, little = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 3, 2, 2))
    averaged = big.reshape(2, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    pair = ([torch.tensor(big)], [torch.tensor(little)])
    found = attention_loss(*(pair if larger == "student" else pair[::-1]))
    assert found.item() == pytest.approx(numpy_loss(averaged, little), rel=1e-10)


def test_half_precision_is_computed_in_float32_and_does_not_overflow():
    student = torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)  # 300^2 is beyond float16
    loss = attention_loss([student], [student])
    assert loss.dtype == torch.float32
    assert loss.item() == 0


def test_a_map_of_zeros_gives_a_finite_gradient():
    student = torch.zeros(1, 2, 2, 2, requires_grad=True)
    attention_loss([student], [torch.ones(1, 2, 2, 2)]).backward()
    assert student.grad.isfinite().all()


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(2, 3, 2, 2, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)
    attention_loss([student], [teacher]).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_without_layers_the_stages_of_equal_resolution_are_compared():
    torch.manual_seed(2)
    student, teacher, images = net(4, 8, 8), net(6, 10).eval(), batch()
    loss = attention_transfer(section(weight=3.0, ce_weight=2.0), setting(student, teacher))
    own, other = copy.deepcopy((student, teacher))
    step = loss(student, images, Progress(0, 4))
    with torch.no_grad():
        log_p = own(images.images).log_softmax(1)
        label = -sum(log_p[i, int(images.labels[i])] for i in range(6)).item() / 6
        pairs = [(own[:end](images.images).double().numpy(), other[:end](images.images).double().numpy()) for end in (2, 5)]
    assert step.loss.item() == pytest.approx(2 * label + 3 * sum(numpy_loss(*pair) for pair in pairs), rel=1e-4)


def test_one_step_moves_the_student_alone():
    student, teacher = net(4, 8), net(6, 10)
    loss = attention_transfer(section(layers=[{"student": "0", "teacher": "3"}], ce_weight=0), setting(student, teacher))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss(student, batch(), Progress(0, 4)).loss.backward()
    assert list(loss.parameters()) == []
    assert student[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_layers_are_checked_by_name_and_place_before_training():
    good = {"student": "1", "teacher": "1"}
    with pytest.raises(TrainError, match="distill.layers.1.student: '11' is not a layer.* did you mean '1'"):
        attention_transfer(section(layers=[good, {"student": "11", "teacher": "1"}]), setting(net(4, 8), net(6, 10)))
    with pytest.raises(TrainError, match="distill.layers.0.teacher: 'conv' is not a layer"):
        attention_transfer(section(layers=[{"student": "1", "teacher": "conv"}]), setting(net(4, 8), net(6, 10)))


@pytest.mark.parametrize(("layer", "found"), [("penultimate", "'penultimate' gives 8"), ("5", "'5' gives 8x1x1")])
def test_a_layer_without_a_map_has_no_attention(layer, found):
    with pytest.raises(TrainError, match=rf"distill.layers.0.student: {found}, expected a map .* the stages end at 1 \(8x8\), 4 \(4x4\)"):
        attention_transfer(section(layers=[{"student": layer, "teacher": "1"}]), setting(net(4, 8), net(6, 10)))


def test_networks_without_a_common_resolution_need_named_layers():
    strided = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(TrainError, match=r"no stages of equal resolution: the student's are 1 \(8x8\), 4 \(4x4\), the teacher's 0 \(6x6\)"):
        attention_transfer(section(), setting(net(4, 8), strided))


def test_a_teacher_that_gives_logits_only_is_refused():
    onnx = nn.Identity()
    onnx.logits_only = True
    with pytest.raises(TrainError, match="attention_transfer compares inner features"):
        attention_transfer(section(), replace(setting(net(4, 8), net(6, 10)), teacher=onnx))

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_data import SIZE, small_net, squares

from toolchain.data.loader import Batch
from toolchain.distill.hints import hint_loss, hints, regressor, staged
from toolchain.distill.objective import Setting
from toolchain.errors import TrainError
from toolchain.recipe.distill import Hints
from toolchain.recipe.schema import Train
from toolchain.train import Progress, fit

TEACHER = {"model": {"arch": "vgg11"}}


def section(**values) -> Hints:
    return Hints(method="hints", teacher=TEACHER, **values)


def net(*channels: int) -> nn.Sequential:
    """Stages of SIZE, SIZE / 2, …, each a convolution, BatchNorm and an in-place ReLU: layers 0, 1, 2; 4, 5, 6; …"""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 3))


def setting(student: nn.Module, teacher: nn.Module) -> Setting:
    return Setting(student, teacher, squares(), Train(), lambda seed: net(4, 8))


def batch(count: int = 6) -> Batch:
    return Batch(torch.randn(count, 3, SIZE, SIZE), torch.arange(count) % 3, torch.arange(count))


def by_patches(images, weight, bias, stride, padding):
    """A convolution as a matrix product over its patches, (N, C * kh * kw, positions)."""
    kernel = weight.shape[2:]
    patches = F.unfold(images, kernel, padding=padding, stride=stride)
    rows = (images.shape[2] + 2 * padding - kernel[0]) // stride + 1
    product = weight.flatten(1) @ patches + bias[:, None]
    return product.unflatten(2, (rows, -1))


def by_spreading(images, weight, bias):
    """A transposed convolution of stride 2 and padding 1: each pixel adds its 4x4 kernel where it falls."""
    count, _, height, width = images.shape
    canvas = images.new_zeros(count, weight.shape[1], 2 * height + 2, 2 * width + 2)
    for row in range(height):
        for column in range(width):
            stamp = torch.einsum("ni,iokl->nokl", images[:, :, row, column], weight)
            canvas = canvas + F.pad(stamp, (2 * column, 2 * (width - 1 - column), 2 * row, 2 * (height - 1 - row)))
    return canvas[:, :, 1:-1, 1:-1] + bias[:, None, None]


@pytest.mark.parametrize(("student_shape", "teacher_shape", "kernel", "stride", "padding"), [
    ((3, 4, 4), (5, 4, 4), 1, 1, 0),
    ((3, 8, 8), (5, 4, 4), 3, 2, 1),
    ((3, 4, 4), (5, 8, 8), 4, 2, 1),
    ((3, 7, 7), (5, 5, 5), 3, 1, 0),
], ids=["equal", "half", "double", "smaller"])
def test_loss_and_gradients_of_each_geometry_equal_those_of_another_formulation(student_shape, teacher_shape, kernel, stride, padding):
    torch.manual_seed(1)
    maps = regressor(student_shape, teacher_shape).double()
    convolution = maps[0]
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
    feature = torch.randn(4, *student_shape, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(4, *teacher_shape, dtype=torch.float64)
    loss = hint_loss(maps(feature), wanted)

    if isinstance(convolution, nn.ConvTranspose2d):
        before = by_spreading(feature, convolution.weight, convolution.bias)
    else:
        before = by_patches(feature, convolution.weight, convolution.bias, stride, padding)
    assert before.shape[1:] == teacher_shape
    variance, mean = torch.var_mean(before, dim=(0, 2, 3), correction=0, keepdim=True)
    mapped = ((before - mean) / torch.sqrt(variance + 1e-5)).clamp(min=0)
    expected = ((mapped - wanted) ** 2).sum() / wanted.numel()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    inputs = [feature, convolution.weight]
    for found, reference in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(found, reference, rtol=1e-8, atol=1e-12)


def test_hint_loss_is_the_mean_over_all_elements_and_leaves_the_teacher_alone():
    mapped = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]], requires_grad=True)
    wanted = torch.tensor([[[[0.0, 2.0]], [[3.0, 1.0]]]], requires_grad=True)
    loss = hint_loss(mapped, wanted)
    assert loss.item() == (1 + 0 + 0 + 9) / 4
    loss.backward()
    assert mapped.grad.flatten().tolist() == [0.5, 0.0, 0.0, 1.5]  # 2 (m - t) / 4
    assert wanted.grad is None


def test_hint_loss_is_computed_in_float32_from_half_precision():
    mapped = torch.full((1, 1, 1, 2), 300.0, dtype=torch.float16)
    loss = hint_loss(mapped, torch.zeros_like(mapped))
    assert loss.dtype == torch.float32
    assert loss.item() == 90000  # beyond float16's largest number


@pytest.mark.parametrize(("student_shape", "teacher_shape"), [((3, 4, 4), (3, 9, 9)), ((3, 4, 4), (5,)), ((8,), (5,)), ((3, 4, 8), (3, 8, 8))])
def test_shapes_that_no_regressor_joins_are_refused(student_shape, teacher_shape):
    with pytest.raises(TrainError, match="cannot be made"):
        regressor(student_shape, teacher_shape)


def test_joint_weights_the_label_loss_and_the_hint_at_the_end_of_the_second_stage():
    torch.manual_seed(2)
    student, teacher, images = net(4, 8), net(6, 10).eval(), batch()
    loss = hints(section(weight=3.0, ce_weight=2.0), setting(student, teacher))
    copies = copy.deepcopy((student, teacher, loss.term.regressor))
    step = loss(student, images, Progress(0, 4))
    own, other, mapping = copies
    log_p = own(images.images).log_softmax(1)
    label = -sum(log_p[i, int(images.labels[i])] for i in range(6)) / 6
    hint = ((mapping(own[:7](images.images)) - other[:7](images.images)) ** 2).mean()
    assert step.loss.item() == pytest.approx((2 * label + 3 * hint).item(), rel=1e-5)


def test_gradients_reach_student_and_regressor_and_never_the_teacher():
    student, teacher = net(4, 8), net(6, 10)
    loss = hints(section(), setting(student, teacher))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss(student, batch(), Progress(0, 4)).loss.backward()
    assert {id(p) for p in loss.parameters()} == {id(p) for p in loss.term.regressor.parameters()}
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.term.regressor[1].parameters())
    assert loss.term.regressor[0].weight.grad.abs().sum() > 0
    assert student[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_named_layers_may_lie_before_the_activation_and_at_other_resolutions():
    student, teacher, images = net(4, 8), net(6, 10).eval(), batch()
    loss = hints(section(student_layer="2", teacher_layer="5", ce_weight=0, weight=1), setting(student, teacher))
    assert loss.term.regressor[0].stride == (2, 2)
    mapping, own = copy.deepcopy(loss.term.regressor), copy.deepcopy(student)
    wanted = teacher[:6](images.images)
    assert (wanted < 0).any()
    step = loss(student, images, Progress(0, 1))
    assert step.loss.item() == pytest.approx(((mapping(own[:3](images.images)) - wanted) ** 2).mean().item(), rel=1e-5)


def test_in_two_stages_the_hint_comes_first_and_the_rest_later():
    cfg = section(mode="two_stage", ce_weight=0.1, kd_weight=0.9, weight=5.0, init_fraction=0.25)
    weights = [tuple(staged(cfg, Progress(epoch, 8))) for epoch in range(8)]
    assert weights == [(0.0, 5.0, 0.0)] * 2 + [(0.1, 0.0, 0.9)] * 6


@pytest.mark.parametrize(("fraction", "epochs", "first"), [(0.125, 2, 1), (0.125, 3, 1), (0.9, 2, 1), (0.9, 4, 3), (0.125, 240, 30)])
def test_each_stage_has_at_least_one_epoch(fraction, epochs, first):
    cfg = section(mode="two_stage", init_fraction=fraction)
    assert sum(staged(cfg, Progress(epoch, epochs)).label == 0 for epoch in range(epochs)) == first


def test_a_run_of_one_epoch_takes_all_terms_at_once():
    assert tuple(staged(section(mode="two_stage", kd_weight=0.5), Progress(0, 1))) == (1.0, 100.0, 0.5)


def test_early_stop_ends_the_second_stage_and_spares_the_first():
    cfg = section(mode="two_stage", init_fraction=0.5, kd_weight=0.9, ce_weight=0.1, early_stop={"after": 0.25})
    assert [tuple(staged(cfg, Progress(epoch, 4))) for epoch in (1, 2)] == [(0.0, 100.0, 0.0), (1.0, 0.0, 0.0)]


def test_in_the_first_stage_the_layers_behind_the_hint_get_no_gradient():
    student = net(4, 8, 8)
    loss = hints(section(mode="two_stage"), setting(student, net(6, 10)))
    loss(student, batch(), Progress(0, 4)).loss.backward()
    assert student[4].weight.grad.abs().sum() > 0
    assert student[8].weight.grad.abs().sum() == 0
    assert student[-1].weight.grad.abs().sum() == 0


def test_training_lowers_the_hint_and_leaves_no_regressor_in_the_student(tmp_path: Path):
    torch.manual_seed(3)
    student, teacher = net(4, 8), net(6, 10)
    names = list(student.state_dict())
    loss = hints(section(), setting(student, teacher))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    cfg = Train(epochs=4, batch_size=16, optimizer={"method": "sgd", "lr": 0.05}, schedule="constant")
    history = fit(student, squares(), cfg, folder=tmp_path, seed=1, loss=loss)
    assert history[-1]["parts"]["method"] < 0.8 * history[0]["parts"]["method"]
    assert list(student.state_dict()) == names
    assert all(torch.equal(value.cpu(), before[name]) for name, value in teacher.state_dict().items())


def test_unknown_layers_are_refused_before_training():
    with pytest.raises(TrainError, match="distill.student_layer: '22' is not a layer.* did you mean '2'"):
        hints(section(student_layer="22"), setting(net(4, 8), net(6, 10)))
    with pytest.raises(TrainError, match="distill.teacher_layer: 'layer9' is not a layer"):
        hints(section(teacher_layer="layer9"), setting(net(4, 8), net(6, 10)))


def test_a_map_that_cannot_be_made_the_teachers_is_refused_with_layers_that_can():
    with pytest.raises(TrainError, match="distill.student_layer: '10' gives 8x2x2, which cannot be made the 6x8x8 of the teacher's '2'; choose 0, 1, 2, "):
        hints(section(student_layer="10", teacher_layer="2"), setting(net(4, 8, 8), net(6, 10)))
    with pytest.raises(TrainError, match=r"distill.teacher_layer: 'penultimate' gives 10, expected a feature map \(C, H, W\)"):
        hints(section(teacher_layer="penultimate"), setting(net(4, 8), net(6, 10)))


def test_a_network_of_one_resolution_needs_a_named_layer():
    flat = small_net()[:3].append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(8, 3))
    with pytest.raises(TrainError, match="distill.teacher_layer: the network has 1 stages"):
        hints(section(), setting(net(4, 8), flat))


def test_a_teacher_that_gives_logits_only_is_refused():
    onnx = nn.Identity()
    onnx.logits_only = True
    with pytest.raises(TrainError, match="hints compares inner features"):
        hints(section(), replace(setting(net(4, 8), net(6, 10)), teacher=onnx))

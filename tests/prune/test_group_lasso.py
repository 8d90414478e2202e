import copy

import pytest
import torch
import torch_pruning as tp
from torch import nn

from toolchain.prune.group_lasso import group_penalty, pressure
from toolchain.prune.groups import trace


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_the_weakest_channel_is_pressed_sixteen_times_as_hard_as_the_strongest() -> None:
    # norms 1, 2, 3: (3 - n) / 2 = 1, 1/2, 0
    assert pressure(torch.tensor([1.0, 4.0, 9.0])).tolist() == pytest.approx([16.0, 4.0, 1.0])
    assert pressure(torch.tensor([2.0, 2.0])).tolist() == [1.0, 1.0]


def test_the_penalty_of_two_channels_is_that_worked_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])[:, :, None, None])
        model[3].weight.copy_(torch.tensor([[4.0, 1.0]]))
    penalty = group_penalty(trace(copy.deepcopy(model), 1), model)()
    # squared norms 9 + 16 = 25 and 1: gamma 1 and 16
    assert penalty.item() == pytest.approx((1 * 25 + 16 * 1) / 2)
    penalty.backward()
    assert model[3].weight.grad.tolist() == [[4.0, 16.0]]  # gamma * w


def test_its_gradient_is_what_torch_prunings_pruner_adds() -> None:
    ours, theirs = chain(), chain()
    with torch.no_grad():
        for model in (ours, theirs):
            model[1].weight.copy_(torch.linspace(0.2, 2, 6))
    group_penalty(trace(copy.deepcopy(ours), 8), ours)().backward()
    pruner = tp.pruner.GroupNormPruner(theirs, torch.zeros(1, 3, 8, 8), tp.importance.GroupMagnitudeImportance(p=2),
                                       reg=1.0, ignored_layers=[theirs[8]])
    for parameter in theirs.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(theirs, alpha=16)
    for index in (0, 1, 3, 4, 8):
        torch.testing.assert_close(ours[index].weight.grad, theirs[index].weight.grad, rtol=1e-4, atol=1e-5)

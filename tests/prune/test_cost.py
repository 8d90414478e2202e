import copy

import pytest
import torch
from torch import nn

from toolchain.models import create_model
from toolchain.prune.cost import cost, cost_at
from toolchain.prune.groups import remove, trace
from toolchain.recipe.schema import TorchModel


def test_parameters_and_macs_of_each_layer_are_those_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                          nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, bias=False), nn.Flatten(), nn.Linear(16, 5))
    found = cost(model, 8)
    # outputs 8 x 4 x 4 that read 27; 8 x 2 x 2 that read 9; 4 x 2 x 2 that read 8; 5 that read 16
    assert dict(found.layers) == {"0": 128 * 27, "3": 32 * 9, "4": 16 * 8, "6": 80}
    assert found.macs == 3456 + 288 + 128 + 80
    assert found.parameters == (216 + 8) + 16 + (72 + 8) + 32 + (80 + 5)


def test_counting_leaves_mode_and_statistics_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    cost(model, 8)
    assert model.training and model[1].num_batches_tracked == 0


@pytest.mark.parametrize("arch", ["vgg11_bn", "resnet18", "mobilenet_v2", "squeezenet1_1", "studentnet"])
def test_what_widths_would_cost_is_what_the_rebuilt_network_costs(arch: str) -> None:
    torch.manual_seed(0)
    model = create_model(TorchModel(arch=arch, width=0.25), 10).eval()
    traced = trace(copy.deepcopy(model), 32)
    gone = {name: range(1 + index % (group.units - 1)) for index, (name, group) in enumerate(traced.groups.items())}
    smaller, _ = remove(model, 32, gone)
    kept = {name: group.units - len(gone[name]) for name, group in traced.groups.items()}
    assert cost_at(traced, cost(model, 32), kept) == cost(smaller, 32)

from pathlib import Path

import pytest
from torch import nn

from toolchain.errors import RecipeError
from toolchain.sensitivity.file import Baseline, LayerScan, Point, Sensitivity
from toolchain.sensitivity.same_network import check_same_network


def net(width: int) -> nn.Module:
    """3 * width, 9 * width (depthwise) and 2 * width weights."""
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


def scan(kind: str, parameters: dict[str, int]) -> Sensitivity:
    points = [Point(ratio=0.5, top1_percent=80, drop=10, kl_nats=0.1)]
    return Sensitivity(kind=kind, images=10, baseline=Baseline(top1_percent=90), layers=[
        LayerScan(name=name, parameters=count, points=points) for name, count in parameters.items()])


@pytest.mark.parametrize(("kind", "parameters"), [("weights", {"0": 24, "1": 72, "5": 16}), ("channels", {"1": 96})])
def test_the_scan_of_the_same_network_is_taken_and_the_network_stays(kind, parameters) -> None:
    model = net(8).train()
    check_same_network(Path("s.json"), scan(kind, parameters), model, 4)
    assert model.training and model[0].weight.shape[0] == 8


@pytest.mark.parametrize(("kind", "parameters", "message"), [
    ("weights", {"0": 24, "1": 72, "5": 16}, "s.json: layer 0: parameters: found 24, but this network has 12 there; .* scan this recipe .*--of weights"),
    ("channels", {"1": 96}, "s.json: group 1: parameters: found 96, but this network has 48 there; .*--of channels"),
    ("weights", {"0": 12, "1": 36}, r"s.json: layers: found no layer '5', which this network has \(2 found, 3 expected\)"),
    ("channels", {"1": 48, "5": 8}, "s.json: layers: found group '5', which this network does not have"),
])
def test_the_scan_of_another_network_is_refused_by_layer(kind, parameters, message) -> None:
    with pytest.raises(RecipeError, match=message):
        check_same_network(Path("s.json"), scan(kind, parameters), net(4), 4)

import json
from math import ceil

import pytest
import torch
from torch import nn

from toolchain.errors import RecipeError, TrainError
from toolchain.prune import replay
from toolchain.prune.greedy import allocate, check_greedy, most_removable, prune_greedy, sensitivity_order
from toolchain.prune.groups import remove, trace
from toolchain.prune.sizes import Sizes, sizes_of
from toolchain.recipe.prune import Greedy

# 4 x 3 weights of layer a, 5 x 4 of layer b, 2 x 5 of the head: 42 parameters; a unit of a costs 3 + 5, one of b 4 + 2
TINY = Sizes({"a": 4, "b": 5}, [(4, 3), (5, 4), (2, 5)], {"a": {0: (1, 0), 1: (0, 1)}, "b": {1: (1, 0), 2: (0, 1)}})


class Joined(nn.Module):
    """A residual addition, a depthwise layer, a concatenation and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.depthwise = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.mix, self.hidden, self.head = nn.Conv2d(10, 6, 1), nn.Linear(6 * 4, 12), nn.Linear(12, 5)

    def forward(self, images):
        x = self.norm(self.first(images)).relu()
        x = self.depthwise((x + self.second(x)).relu()).relu()
        x = self.mix(torch.cat([self.left(x).relu(), self.right(x).relu()], dim=1)).relu()
        return self.head(self.hidden(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)).relu())


def vgg11(classes: int = 10) -> Sizes:
    """torchvision's VGG-11 without BatchNorm: eight convolutions of 3 x 3, then 25088 -> 4096 -> 4096 -> classes."""
    channels = [64, 128, 256, 256, 512, 512, 512, 512]
    shapes, losses = [], {f"c{i}": {} for i in range(8)}
    for i, (inputs, outputs) in enumerate(zip([3, *channels], channels, strict=False)):
        losses[f"c{i}"] |= {len(shapes): (1, 0, 0), len(shapes) + 1: (1,)}
        if i:
            losses[f"c{i - 1}"][len(shapes)] = (0, 1, 0)
        shapes += [(outputs, inputs, 9), (outputs,)]
    losses["c7"][len(shapes)] = (0, 49)
    shapes += [(4096, 25088), (4096,), (4096, 4096), (4096,), (classes, 4096), (classes,)]
    return Sizes({f"c{i}": count for i, count in enumerate(channels)}, shapes, losses)


def total(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_one_layer_is_enough_where_its_channels_cost_enough() -> None:
    # 21 of 42 must go: ceil(21 / 6) = 4 units of b leave 12 + 4 + 2 = 18
    assert allocate(TINY, ["b", "a"], 0.5, cap=0.8) == {"b": 4, "a": 0}


def test_weights_between_two_thinner_layers_are_not_counted_twice() -> None:
    # 31.5 must go: 3 units of a (its cap) count 24, ceil(7.5 / 6) = 2 of b; but 3 + 3 + 6 are left, 30 gone: one more of b
    assert allocate(TINY, ["a", "b"], 0.75, cap=0.8) == {"a": 3, "b": 3}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6, 0.7, 0.75])
def test_vgg11_gives_what_is_asked_and_not_one_channel_more(share: float) -> None:
    sizes = vgg11()
    order = ["c6", "c7", "c5", "c4", "c3", "c2", "c1", "c0"]
    removed = allocate(sizes, order, share, cap=0.9)
    whole = sizes.parameters({})
    gone = 1 - sizes.parameters(removed) / whole
    last = [name for name in order if removed[name]]
    assert gone >= share
    assert any(1 - sizes.parameters({**removed, name: removed[name] - 1}) / whole < share for name in last)
    assert all(units - removed[name] >= ceil(round(0.1 * units, 9)) for name, units in sizes.units.items())


def test_vgg11_at_the_cap_of_every_convolution_keeps_27_million_parameters() -> None:
    sizes = vgg11()
    assert sizes.parameters({}) == 128_807_306
    with pytest.raises(TrainError, match=r"prune.params: found 0.8, but prune.cap 0.9 on 8 of 8 groups .* at most 0.78"):
        allocate(sizes, list(sizes.units), 0.8, cap=0.9)
    most = {name: units - ceil(round(0.1 * units, 9)) for name, units in sizes.units.items()}
    assert sizes.parameters(most) / 1e6 == pytest.approx(27.36, abs=0.005)


def test_only_so_many_layers_may_be_touched() -> None:
    assert allocate(TINY, ["b", "a"], 0.4, cap=0.8, layers=1) == {"b": 3}
    with pytest.raises(TrainError, match="on 1 of 2 groups .* use a smaller params, a larger cap or more layers$"):
        allocate(TINY, ["b", "a"], 0.6, cap=0.8, layers=1)  # 24 of 42 at most


def test_the_least_sensitive_come_first_and_equal_ones_in_order_of_definition() -> None:
    curves = {"a": [(0.5, 2.0), (0.7, 4.0)], "b": [(0.5, 1.0), (0.7, 1.0)], "c": [(0.5, 3.0), (0.7, 3.0)]}
    assert sensitivity_order(["c", "a", "b"], curves) == ["b", "c", "a"]
    with pytest.raises(RecipeError, match="and d is a group of only one"):
        sensitivity_order(["a", "b", "d"], {name: curves[name] for name in "ab"})


def test_the_most_that_can_go_is_known_without_a_scan() -> None:
    # 3 units of a take off 3 * 8, 4 of b 4 * 6, both 42 - (1 * 3 + 1 * 1 + 2 * 1) = 36: 12 lie between the two
    assert [most_removable(TINY, 0.8, layers) for layers in (None, 1, 2)] == [36, 24, 36]
    # with a third group, whose one unit takes off 5, a and b still count 48, so all three bound any two: 36 + 5
    third = Sizes({**TINY.units, "c": 2}, [*TINY.shapes, (2, 5)], {**TINY.losses, "c": {3: (1, 0)}})
    assert [most_removable(third, 0.8, layers) for layers in (None, 2)] == [41, 41]


def test_a_target_out_of_reach_is_refused_without_a_scan_and_the_network_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))  # 26 parameters, 6 a channel: at most 18
    check_greedy(model.train(), Greedy(method="greedy", params=18 / 26), 1)
    assert model.training and model[0].weight.shape == (4, 3, 1, 1)
    with pytest.raises(TrainError, match="found 0.7, but prune.cap 0.9 on 1 of 1 groups .* at most 0.6923 .* use a smaller params or a larger cap$"):
        check_greedy(model, Greedy(method="greedy", params=0.7, layers=3), 1)


@pytest.mark.parametrize("removed", [{"depthwise": 3}, {"left": 2, "right": 1}, {"depthwise": 5, "left": 4, "right": 3, "mix": 2, "hidden": 7}])
def test_the_count_without_building_is_that_of_the_network_that_is_built(removed: dict[str, int]) -> None:
    model = Joined()
    sizes = sizes_of(model, 8)
    assert sizes.units == {"depthwise": 8, "left": 6, "right": 4, "mix": 6, "hidden": 12} and sizes.parameters({}) == total(model)
    smaller, _ = remove(model, 8, {name: list(range(count)) for name, count in removed.items()})
    assert sizes.parameters(removed) == total(smaller)


def test_the_least_salient_channels_of_the_least_sensitive_groups_go_and_the_history_rebuilds_it() -> None:
    model = Joined()
    with torch.no_grad():
        model.hidden.weight[[1, 4]] *= 1e-3
        model.head.weight[:, [1, 4]] *= 1e-3
    curves = {name: [(0.5, drop)] for name, drop in zip(trace(Joined(), 8).groups, (3.0, 2.0, 2.0, 1.0, 0.0), strict=True)}
    cfg = Greedy(method="greedy", params=50 / total(model), cap=0.5)
    smaller, history = prune_greedy(model, cfg, 8, curves)  # a hidden unit costs 24 + 1 + 5: two are enough
    assert total(smaller) == total(model) - 60
    assert [step for step in history["steps"] if step[1]] == [["hidden", True, [1, 4]]]
    rebuilt = replay(Joined(), json.loads(json.dumps(history)))
    rebuilt.load_state_dict(smaller.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt.eval()(images), smaller(images))

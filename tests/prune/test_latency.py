"""Widths chosen by a table: interpolation, prediction and choice, each by numbers that a reader can redo."""

from math import log

import pytest
import torch
from torch import nn

from toolchain.prune.groups import remove
from toolchain.prune.latency import (
    Predictor,
    Surface,
    Ties,
    axis,
    calibrated,
    least_units,
    left_over,
    propose,
    ties,
)


class Branches(nn.Module):
    """A residual addition, a depthwise layer, a concatenation, and a flattening in front of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.side = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)
        self.joined, self.head = nn.Conv2d(12, 6, 1), nn.Linear(6 * 4, 5)

    def forward(self, images):
        x = self.first(images)
        x = self.depthwise((x + self.second(x)).relu())
        x = self.joined(torch.cat([x, self.side(x)], dim=1)).relu()
        return self.head(x.flatten(1))


def test_channels_follow_their_groups_through_additions_concatenations_and_flattening():
    found, full = ties(Branches(), 2)
    assert full == {"depthwise": 8, "side": 4, "joined": 6}
    assert found["second"] == Ties(8, 8, {"depthwise": 1}, {"depthwise": 1})
    assert found["depthwise"] == Ties(8, 8, {"depthwise": 1}, {"depthwise": 1})
    assert found["joined"] == Ties(12, 6, {"depthwise": 1, "side": 1}, {"joined": 1})
    assert found["head"] == Ties(24, 5, {"joined": 4}, {})


def test_the_channels_that_ties_foresee_are_those_of_the_surgery():
    model, gone = Branches(), {"depthwise": 3, "side": 1, "joined": 2}
    smaller, _ = remove(model, 2, {group: list(range(count)) for group, count in gone.items()})
    for name, tied in ties(model, 2)[0].items():
        layer = smaller.get_submodule(name)
        sizes = (layer.in_features, layer.out_features) if name == "head" else (layer.in_channels, layer.out_channels)
        assert tied.channels(gone) == sizes, name


def test_widths_to_measure_are_multiples_and_both_ends():
    assert axis(64, 8, 8, 12) == [8, 16, 24, 32, 40, 48, 56, 64]
    assert axis(64, 8, 8, 3) == [8, 40, 64]  # places 0, 3.5 (to even: 4) and 7 of eight
    assert axis(60, 16, 8, 12) == [16, 24, 32, 40, 48, 56, 60]
    assert axis(3, 3, 8, 12) == [3]


def test_the_fewest_units_respect_the_cap_and_the_multiple():
    assert least_units(64, 0.9, 8) == 8  # a tenth is 6.4
    assert least_units(64, 0.5, 8) == 32
    assert least_units(100, 0.5, 8) == 56
    assert least_units(6, 0.9, 8) == 6  # no multiple of 8 fits


def test_a_surface_is_the_product_of_its_axes_where_the_grid_agrees_with_it():
    points = {(i, o): i * o / 100 for i in (10, 20, 40) for o in (10, 30)}
    surface = Surface(points, ([10, 40], [10, 30]))
    assert surface.at(15, 20) == pytest.approx(3.0)
    assert surface.at(20, 30) == pytest.approx(6.0)
    assert surface.at(5, 30) == pytest.approx(3.0)  # beyond the range: its end


def test_the_grid_corrects_the_product_bilinearly():
    points = {(10, 10): 2.0, (10, 20): 2.0, (20, 10): 2.0, (20, 20): 4.0}
    surface = Surface(points, ([10, 20], [10, 20]))
    assert surface.at(10, 10) == pytest.approx(2.0)  # the product of the axes alone would be 2 * 2 / 4 = 1
    # axes at 15: 3 and 3; product 9 / 4; corrections 2, 1, 1, 1 have the mean 1.25
    assert surface.at(15, 15) == pytest.approx(9 / 4 * 1.25)


def test_one_axis_alone_is_interpolated_linearly():
    assert Surface({(8, 8): 1.0, (8, 4): 0.6}, ([8], [8])).at(6, 6) == pytest.approx(0.8)


def test_costs_are_fitted_to_whole_networks_and_none_is_negative():
    assert calibrated([[1.0], [2.0], [4.0]], [2.5, 4.5, 8.5]) == pytest.approx([2.0, 0.5])
    features = [[1.0, 5.0], [2.0, 1.0], [4.0, 3.0], [8.0, 9.0]]
    assert calibrated(features, [2 * own + 0.1 * weights + 1 for own, weights in features]) == pytest.approx([2, 0.1, 1])
    # 1.5 x - 0.5 would fit; without a negative constant the shares x / ms = 1, 4/5, 8/11 ask for their sum / squares
    shares = (1, 2 / 2.5, 4 / 5.5)
    assert calibrated([[1.0], [2.0], [4.0]], [1.0, 2.5, 5.5]) == pytest.approx(
        [sum(shares) / sum(share**2 for share in shares), 0.0])
    assert calibrated([[2.0, 7.0]], [3.0]) == pytest.approx([1.5, 0.0, 0.0])  # one network: only a factor


def test_saliency_that_is_left_counts_the_most_salient_first():
    assert left_over(torch.tensor([1.0, 5.0, 4.0])) == pytest.approx([0, 0.5, 0.9, 1])
    assert left_over(torch.zeros(2)) == [0.0, 0.5, 1.0]


def table(**ms_of_unit: float) -> Predictor:
    """A network of one layer per group, each of eight units that cost so many ms."""
    layers = {name: (Ties(3, 8, {}, {name: 1}), lambda i, o, ms=ms: ms * o) for name, ms in ms_of_unit.items()}
    return Predictor(layers, dict.fromkeys(ms_of_unit, 8), scale=2.0, base=1.0)


FLAT = [n / 8 for n in range(9)]


def test_the_prediction_is_the_scaled_sum_and_the_base():
    predictor = table(a=0.5, b=0.25)
    assert predictor.ms({"a": 8, "b": 8}) == pytest.approx(2 * (4 + 2) + 1)
    assert predictor.saved_ms({"a": 8, "b": 8}, "a", 6) == pytest.approx(2 * 2 * 0.5)


def test_what_is_taken_loses_least_per_millisecond():
    predictor = table(a=0.5, b=0.25)
    kept = propose({"a": 8, "b": 8}, 11.0, predictor, {"a": FLAT, "b": FLAT}, {"a": 2, "b": 2}, 2)
    assert kept == {"a": 6, "b": 8}  # the same loss, -log(6/8), saves 2 ms in a and 1 ms in b
    dear = {"a": left_over(torch.tensor([1.0] * 6 + [6.0] * 2)), "b": FLAT}
    assert dear["a"][6] == pytest.approx(16 / 18)  # -log = 0.118 for 2 ms, and now b's first: 0.288 for 1 ms
    assert -log(dear["a"][4]) / 4 < -log(FLAT[6])
    assert propose({"a": 8, "b": 8}, 11.0, predictor, dear, {"a": 2, "b": 2}, 2) == {"a": 6, "b": 8}


def test_a_width_that_saves_nothing_is_passed_on_the_way_to_one_that_does():
    steps = {8: 4.0, 6: 4.0, 4: 2.0, 2: 2.0}  # an engine that works in blocks of four
    predictor = Predictor({"a": (Ties(3, 8, {}, {"a": 1}), lambda i, o: steps[o])}, {"a": 8})
    assert propose({"a": 8}, 3.0, predictor, {"a": FLAT}, {"a": 2}, 2) == {"a": 4}
    assert propose({"a": 4}, 1.0, predictor, {"a": FLAT}, {"a": 2}, 2) == {"a": 4}  # nothing more to be had


def test_groups_given_up_and_least_widths_stay():
    predictor, left = table(a=0.5, b=0.25), {"a": FLAT, "b": FLAT}
    assert propose({"a": 8, "b": 8}, 0.0, predictor, left, {"a": 4, "b": 6}, 2, banned={"b"}) == {"a": 4, "b": 8}


def test_the_prediction_is_scaled_by_what_was_measured_last():
    predictor, left = table(a=0.5, b=0.25), {"a": FLAT, "b": FLAT}
    # 13 ms predicted at full width; measured twice that, so that 26 is at hand and 22 is one step away
    assert propose({"a": 8, "b": 8}, 22.0, predictor, left, {"a": 2, "b": 2}, 2, anchor=2.0) == {"a": 6, "b": 8}

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.prune import prune
from toolchain.prune.magnitude import kept, magnitude_masks, smallest
from toolchain.recipe.prune import Magnitude


def cfg(**settings) -> Magnitude:
    return Magnitude(method="magnitude", **settings)


def network() -> nn.Sequential:
    """108 + 32 + 96 weights that can be pruned: a convolution with a bias, a depthwise one, a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, (2, 4), groups=4, bias=False),
                         nn.Flatten(), nn.Linear(12, 8)).eval()


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: model.get_submodule(name).weight.detach().numpy().copy() for name in ("0", "3", "5")}


def without_smallest(values: np.ndarray, count: int) -> np.ndarray:
    """`values` with the `count` smallest magnitudes zero, by sorting."""
    flat = values.flatten()
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
    return flat.reshape(values.shape)


@pytest.mark.parametrize("norm", ["l1", "l2"])  # of a single weight they are the same number
def test_the_same_share_of_every_layer_goes_smallest_first(norm: str) -> None:
    model = network()
    pruned, history = prune(model, cfg(amount=0.7, scope="layer", norm=norm), 8)
    counts = {"0": 76, "3": 22, "5": 67}  # round(0.7 * 108 = 75.6), round(0.7 * 32 = 22.4), round(0.7 * 96 = 67.2)
    for name, values in weights(model).items():
        np.testing.assert_array_equal(weights(pruned)[name], without_smallest(values, counts[name]))
    assert history["density"] == {"0": 32 / 108, "3": 10 / 32, "5": 29 / 96}
    assert history["sparsity_prunable"] == 165 / 236
    assert history["sparsity_all"] == 165 / (236 + 4 + 2 * 4 + 8)  # bias, BatchNorm's scale and shift, bias


def test_one_threshold_over_all_layers_is_that_of_their_weights_laid_end_to_end() -> None:
    model = network()
    pruned, history = prune(model, cfg(amount=0.5), 8)
    together = without_smallest(np.concatenate([values.flatten() for values in weights(model).values()]), 118)
    np.testing.assert_array_equal(np.concatenate([values.flatten() for values in weights(pruned).values()]), together)
    assert history["sparsity_prunable"] == 0.5 and len(set(history["density"].values())) == 3


def test_biases_and_batchnorm_stay_and_so_does_the_network_that_was_given() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(1e-6)  # far smaller than any weight
        model[0].bias.fill_(1e-6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned, _ = prune(model, cfg(amount=0.5), 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items()
               if name not in ("0.weight", "3.weight", "5.weight"))


@pytest.mark.parametrize(("count", "share", "left"), [
    (5, 0.5, 3),    # 2.5 is rounded to the even 2
    (7, 0.5, 3),    # 3.5 is rounded to the even 4
    (10, 0.25, 8),  # 2.5 again
    (3, 0.1, 3),
])
def test_halves_are_rounded_to_the_even_number(count: int, share: float, left: int) -> None:
    assert kept(count, share, 1) == left


@pytest.mark.parametrize("rounds", range(1, 11))
def test_rounds_of_a_fifth_leave_a_power_of_four_fifths(rounds: int) -> None:
    assert kept(5**12, 0.2, rounds) == 4**rounds * 5 ** (12 - rounds)  # no rounding: every count is a whole number
    assert kept(1000, 0.2, rounds) == pytest.approx(1000 * 0.8**rounds, abs=2.5)  # half a weight a round, times 0.8


def test_of_equal_magnitudes_the_first_in_order_go() -> None:
    assert smallest(torch.tensor([2.0, 1.0, 1.0, 0.5, 1.0]), 3).tolist() == [False, True, True, True, False]
    assert smallest(torch.ones(2, 2), 0).tolist() == [[False, False], [False, False]]
    assert smallest(torch.ones(2, 2), 4).all()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_of_rounds_are_nested_though_the_other_weights_move(scope: str) -> None:
    model, zeros = network(), None
    section = cfg(per_round=0.2, rounds=6, scope=scope)
    for number in range(1, 7):
        model, history = prune(model, section, 8, number=number)
        now = {name: values == 0 for name, values in weights(model).items()}
        for name in now:
            assert zeros is None or (now[name] >= zeros[name]).all()
        assert history["sparsity_prunable"] == pytest.approx(1 - 0.8**number, abs=0.02)
        zeros = now
        with torch.no_grad():
            for layer in (model[0], model[3], model[5]):
                layer.weight.mul_(torch.randn_like(layer.weight))


def test_an_amount_in_rounds_is_reached_after_the_last() -> None:
    section = cfg(amount=0.7, rounds=4)
    assert section.round_share == pytest.approx(1 - 0.3**0.25)
    assert kept(100_000, section.round_share, 4) == pytest.approx(30_000, abs=2)
    assert cfg(amount=0.7).round_share == 0.7  # to the last bit


def test_a_layer_that_one_threshold_would_empty_is_named() -> None:
    model = network()
    with torch.no_grad():
        model[5].weight.mul_(1e-3)
    with pytest.raises(TrainError, match=r"less than 1 % of the weights would be left in 5 \(0 %\); use prune.scope: layer"):
        prune(model, cfg(amount=0.5), 8)


def test_a_network_without_weights_to_prune_is_refused() -> None:
    with pytest.raises(TrainError, match="no Conv2d or Linear layer"):
        prune(nn.BatchNorm2d(4), cfg(amount=0.5, scope="layer"), 8)


def test_a_mask_needs_no_mask_of_the_rounds_before() -> None:
    weight = torch.tensor([[0.0, 3.0, 0.0, -1.0, 2.0, -4.0, 5.0, 6.0, 7.0, 8.0]])  # two are gone
    (mask,) = magnitude_masks({"a": weight}, 0.2, 2, "layer").values()  # 10 -> 8 -> round(0.2 * 8 = 1.6) -> 6
    assert mask.nonzero()[:, 1].tolist() == [0, 2, 3, 4]


def test_amounts_from_a_scan_are_nested_over_rounds_and_add_up() -> None:
    model, zeros = network(), None
    section = cfg(amount=0.5, rounds=3, scope="sensitivity")
    curves = {"0": [(0.5, 0.0), (0.9, 4.0)], "3": [(0.5, 10.0), (0.9, 20.0)], "5": [(0.5, 2.0), (0.9, 3.0)]}
    for number, total in ((1, 49), (2, 87), (3, 118)):  # of 236, round(0.2063 * what is left) go: 49, 39 - 1, 31
        model, history = prune(model, section, 8, number=number, curves=curves)
        now = {name: values == 0 for name, values in weights(model).items()}
        assert sum(int(mask.sum()) for mask in now.values()) == pytest.approx(total, abs=1)
        assert all(zeros is None or (now[name] >= zeros[name]).all() for name in now)
        assert history["density"]["3"] > max(history["density"]["0"], history["density"]["5"] - 0.2)  # it costs most
        zeros = now


def test_amounts_from_a_scan_take_the_smallest_weights_of_each_layer() -> None:
    model = network()
    curves = {"0": [(0.5, 0.0)], "3": [(0.5, 5.0)], "5": [(0.5, 5.0)]}
    pruned, _ = prune(model, cfg(amount=118 / 236, scope="sensitivity"), 8, curves=curves)
    for name, count in {"0": 54, "3": 16, "5": 48}.items():  # half of every layer is all that was scanned
        np.testing.assert_array_equal(weights(pruned)[name], without_smallest(weights(model)[name], count))

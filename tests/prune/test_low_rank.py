"""Layers as chains of thinner ones: what is lost, at which ranks, and the network that is built again from a record."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.models import create_model
from toolchain.prune import replay
from toolchain.prune.factors import chain, energies, factorized, scheme_of, unfoldings, weights_at
from toolchain.prune.low_rank import choose, input_sizes, low_rank, spectra
from toolchain.recipe.prune import LowRank
from toolchain.recipe.schema import TorchModel


def cfg(**fields) -> LowRank:
    return LowRank(method="low_rank", **{"round_to": 1, **fields})


def conv(*sizes: int, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*sizes, **options).double()


def diagonal(*values: float, rows: int = 0) -> nn.Linear:
    """A linear layer whose singular values are these."""
    layer = nn.Linear(len(values), max(rows, len(values)), bias=False)
    with torch.no_grad():
        layer.weight.zero_()[: len(values)] = torch.diag(torch.tensor(values))
    return layer


def together(parts: nn.Sequential, scheme: str) -> np.ndarray:
    """The weight of the single layer that a chain amounts to."""
    first, *rest = (part.weight.detach().numpy() for part in parts)
    if scheme == "linear":
        return rest[0] @ first
    if scheme == "spatial":  # (r, i, y, 1) and (o, r, 1, x)
        return np.einsum("riy,orx->oiyx", first[..., 0], rest[0][:, :, 0])
    if scheme == "channel":
        return np.einsum("riyx,or->oiyx", first, rest[0][..., 0, 0])
    return np.einsum("ri,pryx,op->oiyx", first[..., 0, 0], rest[0], rest[1][..., 0, 0])


@pytest.mark.parametrize(("scheme", "matrix"), [
    ("channel", lambda w: w.reshape(8, 45)),
    ("spatial", lambda w: w.transpose(0, 3, 1, 2).reshape(8 * 3, 5 * 3)),
])
def test_the_error_is_the_root_of_the_squared_singular_values_that_were_cut(scheme: str, matrix) -> None:
    layer = conv(5, 8, 3)
    weight = layer.weight.detach().numpy()
    tail = np.linalg.svd(matrix(weight), compute_uv=False)[3:]
    error = np.linalg.norm(together(factorized(layer, scheme, [3]), scheme) - weight)
    assert error == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-10)


def test_a_linear_layer_loses_its_smallest_singular_values_and_shares_the_others_between_both_sides() -> None:
    parts = factorized(diagonal(4, 3, 2, 1), "linear", [2])
    assert np.allclose(together(parts, "linear"), np.diag([4.0, 3, 0, 0]), atol=1e-6)
    assert [part.weight.norm().item() for part in parts] == pytest.approx([7**0.5, 7**0.5])  # sqrt(4)² + sqrt(3)²
    assert parts[1].bias is None


def test_tucker2_loses_no_more_than_both_tails_and_no_less_than_the_larger() -> None:
    layer = conv(6, 8, 3)
    weight = layer.weight.detach().numpy()
    tails = [(np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum() for matrix, rank in (
        (weight.reshape(8, -1), 5), (weight.transpose(1, 0, 2, 3).reshape(6, -1), 4))]
    parts = factorized(layer, "tucker2", [4, 5])
    error = ((together(parts, "tucker2") - weight) ** 2).sum()
    assert max(tails) <= error <= sum(tails)
    assert np.ptp([part.weight.norm().item() for part in parts]) < 1e-9  # the scale is shared


OPTIONS: list[dict] = [{"stride": (2, 1), "padding": (1, 2)}, {"dilation": (1, 2), "padding": 1, "bias": False},
           {"padding": "valid"}, {"padding": (2, 1), "padding_mode": "reflect"}]


@pytest.mark.parametrize("options", OPTIONS, ids=["stride", "dilation", "valid", "reflect"])
@pytest.mark.parametrize(("scheme", "ranks"), [("channel", [8]), ("spatial", [10]), ("tucker2", [5, 8])])
def test_at_full_rank_the_chain_gives_the_layers_outputs(scheme: str, ranks: list[int], options) -> None:
    layer = conv(5, 8, (2, 3), **options)  # spatial: the matrix is (8 * 3, 5 * 2)
    images = torch.randn(2, 5, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(factorized(layer, scheme, ranks)(images), layer(images), rtol=1e-6, atol=1e-10)


def test_weights_are_counted_as_the_chain_has_them() -> None:
    layer = conv(5, 8, (2, 3))
    for scheme, ranks in (("channel", [4]), ("spatial", [4]), ("tucker2", [2, 3])):
        parts = chain(layer, scheme, ranks)
        assert weights_at((8, 5, 2, 3), scheme, ranks) == sum(part.weight.numel() for part in parts)
        assert [part.bias is not None for part in parts] == [*[False] * (len(parts) - 1), True]


def test_what_has_no_second_axis_to_split_stays_or_becomes_two() -> None:
    assert scheme_of(nn.Conv2d(8, 8, 1), "tucker2") == "channel"
    assert scheme_of(nn.Linear(8, 8), "spatial") == "linear"
    assert scheme_of(nn.Conv2d(8, 8, 3, groups=8), "channel") is None
    assert scheme_of(nn.LazyLinear(8), "channel") is None and scheme_of(nn.ReLU(), "channel") is None


def test_an_unfolding_holds_every_weight_once() -> None:
    weight = conv(5, 8, (2, 3)).weight
    assert [tuple(found.shape) for scheme in ("channel", "spatial", "tucker2") for found in unfoldings(weight, scheme)
            ] == [(8, 30), (24, 10), (5, 48), (8, 30)]


def test_energy_is_the_running_share_of_squares_also_of_a_layer_of_zeros() -> None:
    assert energies(diagonal(3, 2, 1), "linear")[0].tolist() == pytest.approx([9 / 14, 13 / 14, 1])
    assert energies(diagonal(0, 0), "linear")[0].tolist() == [1, 1]


def net() -> nn.Sequential:
    """Two linear layers of 16 x 16 whose energies are known: squares 64 + 32 + 3 + 1 = 100, and 25 + 25 + 25 + 25."""
    rest = [0.0] * 12
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), diagonal(8, 32**0.5, 3**0.5, 1, *rest),
                         diagonal(5, 5, 5, 5, *rest))


def chosen(section: LowRank, names: tuple[str, ...] = ("3", "4"), parameters: int = 1000) -> dict[str, list[int]]:
    return {name: found["ranks"] for name, found in choose(spectra(net(), section.scheme, names), section, parameters).items()}


def test_the_rank_is_the_smallest_that_keeps_the_energy() -> None:
    assert chosen(cfg(energy=0.9)) == {"3": [2], "4": [4]}  # 64, 96 of 100; 25, 50, 75, 100
    assert chosen(cfg(energy=0.97)) == {"3": [3], "4": [4]}
    assert chosen(cfg()) == {"3": [2], "4": [4]}  # 0.95


def test_a_rank_is_rounded_up_and_a_layer_stays_where_its_chain_has_as_many_weights() -> None:
    assert chosen(cfg(energy=0.9, round_to=3)) == {"3": [3], "4": [6]}
    assert chosen(cfg(rank=0.25)) == {"3": [4], "4": [4]}
    with pytest.raises(TrainError, match="energy 0.9 leaves no layer with fewer weights: nearest is 3, with 256 at "
                                         "rank 8 in place of 256; use a smaller prune.energy"):
        chosen(cfg(energy=0.9, round_to=8))  # 8 * (16 + 16) = 16 * 16


def test_a_budget_is_met_where_least_energy_is_lost_for_a_weight() -> None:
    # rank r saves 256 - 32 r. Down to rank 4 nothing is lost: 128 of each. Below it, layer 3 loses 1 %, 3 % and 32 %,
    # layer 4 25 % each, for 32 weights.
    assert chosen(cfg(params=0.2)) == {"3": [4], "4": [5]}  # 200 of 1000: 128 + 96 = 224, and 6 would give 192
    assert chosen(cfg(params=0.26)) == {"3": [3], "4": [4]}
    assert chosen(cfg(params=0.3)) == {"3": [2], "4": [4]}
    assert chosen(cfg(params=0.34)) == {"3": [2], "4": [3]}  # 25 % is less than 32 %


def test_a_budget_that_cannot_be_met_names_the_most_that_can() -> None:
    with pytest.raises(TrainError, match=r"found 0.5, but low_rank \(scheme channel, round_to 1\) can remove 0.448 of "
                                         "the 1000 parameters at most, in 2 layers; use a smaller share"):
        chosen(cfg(params=0.5))  # rank 1 of both: 2 * 224


def test_weights_that_are_not_finite_are_named() -> None:
    model = net()
    nn.init.constant_(model[3].weight, float("nan"))
    with pytest.raises(TrainError, match="weights of 3 have no singular values"):
        spectra(model, "channel", ["3"])
    with pytest.raises(TrainError, match="found no plain Conv2d or Linear"):
        spectra(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), "channel", ["0"])


def test_a_forward_that_looks_into_a_layer_is_refused() -> None:
    class Nosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(48, 16)

        def forward(self, images):
            return nn.functional.linear(images.flatten(1), self.head.weight)

    with pytest.raises(TrainError, match="does not run with its layers replaced .*'weight'"):
        low_rank(Nosy(), {"head": {"scheme": "linear", "ranks": [2], "shape": [16, 48]}}, 4)


@pytest.mark.parametrize(("arch", "scheme"), [("resnet18", "tucker2"), ("mobilenet_v2", "channel"), ("vgg11", "spatial")])
def test_the_record_builds_the_same_network_again_and_no_other(arch: str, scheme: str) -> None:
    def fresh(width: float = 0.125) -> nn.Module:
        torch.manual_seed(0)
        return create_model(TorchModel(arch=arch, width=width), 10).eval()

    model = fresh()
    layers = choose(spectra(model, scheme, input_sizes(model, 32)), cfg(rank=0.25, scheme=scheme), 1)
    before = copy.deepcopy(model.state_dict())
    thinner = low_rank(model, layers, 32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    name = next(iter(layers))
    assert thinner.get_submodule(f"{name}.0").weight.shape[0] == layers[name]["ranks"][0]
    rebuilt = replay(fresh(), json.loads(json.dumps({"method": "low_rank", "image_size": 32, "layers": layers})))
    rebuilt.load_state_dict(thinner.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(rebuilt(images), thinner(images))
    with pytest.raises(TrainError, match="prune history: it was written for another network; layer"):
        replay(fresh(0.25), {"method": "low_rank", "layers": layers})
    with pytest.raises(TrainError, match="and not one here"):
        replay(nn.Sequential(nn.Flatten()), {"method": "low_rank", "layers": layers})

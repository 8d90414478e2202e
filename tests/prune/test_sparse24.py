from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.prune import prune
from toolchain.prune.sparse24 import fits, mask_24
from toolchain.recipe.prune import Sparse24

CFG = Sparse24(method="sparse24")


def network() -> nn.Sequential:
    """A stem of 3 inputs, a convolution and a head that fit, a depthwise layer and a head of 10 outputs that do not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 8, 1, groups=8), nn.Flatten(),
                         nn.Linear(32, 16), nn.Linear(16, 10))


def best_of_six(four: np.ndarray) -> np.ndarray:
    """Of the six ways to keep two of four weights, the one whose magnitudes have the largest sum."""
    pair = list(max(combinations(range(4), 2), key=lambda kept: np.abs(four[list(kept)]).sum()))
    best = np.zeros(4, dtype=four.dtype)
    best[pair] = four[pair]
    return best


def test_the_best_pair_of_every_four_input_channels_is_kept_at_each_output_and_position() -> None:
    model = network()
    before = model[1].weight.detach().numpy().copy()
    after = prune(model, CFG, 8)[0][1].weight.detach().numpy()
    for k in range(8):
        for r in range(3):
            for s in range(3):
                for c in range(0, 16, 4):
                    np.testing.assert_array_equal(after[k, c:c + 4, r, s], best_of_six(before[k, c:c + 4, r, s]))


def test_a_linear_layer_is_sparse_along_its_inputs() -> None:
    model = network()
    before = model[4].weight.detach().numpy().copy()
    after = prune(model, CFG, 8)[0][4].weight.detach().numpy()
    fours = [best_of_six(four) for four in before.reshape(-1, 4)]
    np.testing.assert_array_equal(after, np.stack(fours).reshape(16, 32))


def test_layers_of_other_shapes_are_left_alone_and_listed() -> None:
    model = network()
    pruned, history = prune(model, CFG, 8)
    assert history["sparse_layers"] == ["1", "4"]
    assert history["skipped"] == {"0": [16, 3, 3, 3], "2": [8, 1, 1, 1], "5": [10, 16]}
    assert history["density"] == {"0": 1.0, "1": 0.5, "2": 1.0, "4": 0.5, "5": 1.0}
    assert all(torch.equal(pruned[index].weight, model[index].weight) for index in (0, 2, 5))


@pytest.mark.parametrize(("shape", "expected"), [
    ((8, 16), True), ((8, 16, 3, 3), True), ((12, 16), False), ((8, 24), False), ((64, 3, 3, 3), False), ((32, 1, 3, 3), False)])
def test_outputs_are_a_multiple_of_eight_and_inputs_of_sixteen(shape: tuple[int, ...], expected: bool) -> None:
    assert fits(shape) == expected


def test_of_four_equal_weights_the_first_two_are_kept() -> None:
    assert mask_24(torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.0, 2.0, 0.0, 3.0]])).tolist() == [
        [False, False, True, True, True, False, True, False]]


def test_a_network_without_a_layer_that_fits_is_refused_with_its_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(TrainError, match=r"0 \[8, 3, 3, 3\], 2 \[10, 8\]; use a larger model.width, or prune.method: magnitude"):
        prune(model, CFG, 8)

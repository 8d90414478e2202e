import numpy as np
import pytest
import torch

from toolchain.graph.int4 import int4_codes
from toolchain.graph.qdq import weight_codes
from toolchain.quantize.ste import SteInput, SteWeight, ste


def test_values_are_rounded_half_to_even_and_clipped_to_the_codes():
    # scale 14 / 7 = 2: 1 / 2 -> 0, 3 / 2 -> 2, 5 / 2 -> 2, -17 / 2 -> -8
    rounded = ste(torch.tensor([1.0, 3.0, 5.0, 13.9, 30.0, -17.0]), torch.tensor([14.0]), -8, 7)
    assert rounded.tolist() == [0.0, 4.0, 4.0, 14.0, 14.0, -16.0]


def test_the_gradient_passes_up_to_amax_and_stops_beyond():
    x = torch.tensor([0.5, 1.0, -1.0, 1.01, -3.0], requires_grad=True)
    amax = torch.tensor([1.0], requires_grad=True)
    (ste(x, amax, -128, 127) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0] and amax.grad is None


def test_weights_are_the_very_values_of_the_engines_codes():
    weight = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    weight[2] = 0
    weight[3] *= 1e-7  # scales end at 1e-7
    codes, scale = int4_codes(weight, 32, np.float32)
    expected = codes.astype(np.float32).reshape(6, 3, 32) * scale[:, :, None]
    blocks = torch.from_numpy(weight).reshape(6, 3, 32).requires_grad_(True)
    found = SteWeight(-8, 7)(blocks)
    assert (found.detach().numpy() == expected).all()
    found.sum().backward()
    assert (blocks.grad == 1).all()  # the range follows the weights, so none is clipped
    codes, scale = weight_codes(weight, None, 0, np.float32)
    rows = SteWeight(-127, 127)(torch.from_numpy(weight).reshape(6, 1, 96)).reshape(6, 96)
    assert (rows.numpy() == codes * scale[:, None]).all()


def test_an_observer_follows_in_training_alone_and_only_until_it_is_frozen():
    observer = SteInput(2.0, -128, 127)
    batch = torch.tensor([[1.0, -4.0]])
    observer(batch)  # not following yet
    observer.following = True
    observer.eval()(batch)
    assert observer.amax() == 2.0
    observer.train()(batch)
    assert observer.amax() == pytest.approx(2.0 + 0.01 * (4.0 - 2.0))
    observer(100 * batch)  # it follows one batch each time that it is told to
    assert observer.amax() == pytest.approx(2.02)

import copy

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.prune.groups import trace
from toolchain.prune.saliency import saliencies


def network() -> nn.Sequential:
    """Conv 3 to 4, BatchNorm, conv 4 to 5, head."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1),
                          nn.Flatten(), nn.Linear(5, 3)).eval()
    nn.init.normal_(model[1].weight)
    return model


def numbers(layer: nn.Module) -> np.ndarray:
    return layer.weight.detach().numpy().astype(np.float64)


@pytest.mark.parametrize(("saliency", "power"), [("l1", 1), ("l2", 2)])
def test_a_channel_is_worth_its_filter_its_gamma_and_what_reads_it(saliency: str, power: int) -> None:
    model = network()
    filters, gammas, readers = (np.abs(numbers(model[index])) ** power for index in (0, 1, 3))
    expected = filters.sum(axis=(1, 2, 3)) + gammas + readers.sum(axis=(0, 2, 3))
    found = saliencies(trace(model, 8), saliency)["0"].numpy()
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)


def test_bn_gamma_is_the_scale_alone_and_needs_a_batchnorm() -> None:
    model = nn.Sequential(*list(network())[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    gammas = np.abs(numbers(model[1]))
    np.testing.assert_allclose(saliencies(trace(model, 8), "bn_gamma")["0"].numpy(), gammas / gammas.mean(), rtol=1e-5)
    with pytest.raises(TrainError, match="bn_gamma says nothing of layer 3, which no BatchNorm follows; use l1, l2 or taylor"):
        saliencies(trace(network(), 8), "bn_gamma")


def test_taylor_is_weight_times_gradient_of_the_mean_loss_however_it_is_batched() -> None:
    model, images, labels = network(), torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    copied = copy.deepcopy(model)
    nn.functional.cross_entropy(copied(images), labels).backward()
    worth = [np.abs(numbers(copied[index]) * copied[index].weight.grad.numpy()) for index in (0, 1, 3)]
    expected = worth[0].sum(axis=(1, 2, 3)) + worth[1] + worth[2].sum(axis=(0, 2, 3))
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    found = saliencies(trace(model, 8), "taylor", batches=batches)["0"].numpy()
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)


def test_random_depends_on_the_seed_alone() -> None:
    first, again, other = (saliencies(trace(network(), 8), "random", seed)["0"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)

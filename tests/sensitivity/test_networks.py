import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_data import squares

from toolchain.errors import DataError
from toolchain.sensitivity.images import Images, draw_images
from toolchain.sensitivity.networks import Channels, Weights


@pytest.fixture
def images(tmp_path: Path) -> Images:
    draw_images(squares(), 20, 3, tmp_path)
    return Images(tmp_path)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))
    model[1].bias.data.normal_()
    return model.eval()


def answers(model: nn.Module, images: Images) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(torch.from_numpy(batch)).numpy() for batch in images.batches()])


def test_the_draw_is_fixed_and_from_val(tmp_path: Path, images: Images) -> None:
    data = squares()
    chosen = np.sort(np.random.default_rng(3).permutation(48)[:20])
    np.testing.assert_array_equal(images.labels, data.val.labels[chosen])
    np.testing.assert_array_equal(images.pixels, data.val.images(chosen))
    empty = copy.copy(data)
    object.__setattr__(empty, "val", type(data.val)(data.val.pixels[:0], data.val.labels[:0]))
    with pytest.raises(DataError, match="no images in val"):
        draw_images(empty, 20, 3, tmp_path / "other")


def test_the_smallest_weights_of_one_layer_go_and_come_back(images: Images) -> None:
    model = net()
    network, reference = Weights(model, images), net()
    flat = reference[3].weight.detach().numpy().reshape(-1)  # 432 weights
    flat[np.argsort(np.abs(flat), kind="stable")[:302]] = 0  # round(0.7 * 432 = 302.4)
    np.testing.assert_allclose(network.harmed("3", 0.7), answers(reference, images), atol=1e-5)
    assert all(torch.equal(value, net().state_dict()[name]) for name, value in model.state_dict().items())
    assert [(fact.name, fact.parameters, fact.macs) for fact in network.facts()] == [
        ("0", 216, 216 * 64), ("3", 432, 432 * 36), ("7", 72, 72)]


def test_channels_that_are_removed_answer_as_channels_that_are_silenced(images: Images) -> None:
    model = net()
    with torch.no_grad():  # by far the least salient
        model[0].weight[[2, 5]] *= 1e-3
        model[1].weight[[2, 5]] *= 1e-3
        model[3].weight[:, [2, 5]] *= 1e-3
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        silenced[1].weight[[2, 5]] = 0
        silenced[1].bias[[2, 5]] = 0
    network = Channels(model, images)
    assert [fact.name for fact in network.facts()] == ["0", "3"]
    np.testing.assert_allclose(network.harmed("0", 0.25), answers(silenced, images), atol=1e-5)
    np.testing.assert_array_equal(network.harmed("0", 0.01), network.baseline())  # round(0.08) channels
    assert network.harmed("3", 0.99).shape == (20, 3)  # one of six stays


def test_what_channels_can_take_off_at_most_is_told_with_them(images: Images) -> None:
    # 224 + 16 + 438 + 75 parameters; with one channel of 8 and one of 6 left 28 + 2 + 10 + 15
    assert Channels(net(), images).removable() == (753 - 55) / 753 and Weights(net(), images).removable() is None


@pytest.mark.parametrize("kind", [Weights, Channels])
def test_order_does_not_matter_and_nothing_removed_is_the_baseline(kind, images: Images) -> None:
    network = kind(net(), images)
    first = network.harmed("0", 0.5)
    network.harmed("3", 0.9)
    np.testing.assert_array_equal(network.harmed("0", 0.5), first)
    np.testing.assert_array_equal(network.harmed("3", 0.0), network.baseline())

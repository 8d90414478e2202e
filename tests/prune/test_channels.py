import copy
import json

import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.prune import prune, replay
from toolchain.prune.channels import measure_whole, prune_channels
from toolchain.prune.cost import cost
from toolchain.prune.groups import classifier
from toolchain.recipe.schema import Channels


def chain() -> nn.Sequential:
    """Conv 8 -> ReLU -> pool -> Linear 12 -> Linear 4, on 4x4 images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(8 * 4, 12), nn.ReLU(), nn.Linear(12, 4))


class Residual(nn.Module):
    """A residual addition ties `first` to `second`, and a depthwise layer ties its own input to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 5)

    def forward(self, images):
        x = self.first(images)
        x = self.depthwise((x + self.second(x)).relu())
        return self.head(x.mean(dim=(2, 3)))


def cfg(ratio: float = 0.5, round_to: int = 1) -> Channels:
    return Channels(method="channels", ratio=ratio, round_to=round_to)


def test_half_of_the_channels_go_and_the_logits_stay():
    pruned, _ = prune(chain(), cfg(), 4)
    assert pruned[0].weight.shape == (4, 3, 3, 3)
    assert pruned[1].num_features == 4
    assert pruned[5].weight.shape == (6, 4 * 4)  # each channel is 2x2 columns of the flattened input
    assert pruned[7].weight.shape == (4, 6)


def test_kept_counts_are_rounded_down_to_a_multiple():
    pruned, _ = prune(chain(), cfg(ratio=0.3, round_to=4), 4)
    assert (pruned[0].out_channels, pruned[5].out_features) == (4, 8)  # 8 * 0.7 = 5.6 -> 4; 12 * 0.7 = 8.4 -> 8


def test_the_network_with_the_smallest_channels_silenced_gives_the_logits_of_the_pruned_one():
    model = chain()
    with torch.no_grad():  # channels 1, 3, 4, 6 and features 0..5 are the smallest by far
        model[0].weight[[1, 3, 4, 6]] *= 1e-3
        model[1].weight[[1, 3, 4, 6]] *= 1e-3
        model[1].bias.normal_()
        model[5].weight[:6] *= 1e-3
    pruned, history = prune(model, cfg(), 4)
    removed = {name: sorted(channels) for name, outputs, channels in history["steps"] if outputs}
    assert removed == {"0": [1, 3, 4, 6], "5": [0, 1, 2, 3, 4, 5]}
    silenced = copy.deepcopy(model).eval()
    with torch.no_grad():
        silenced[1].weight[[1, 3, 4, 6]] = 0
        silenced[1].bias[[1, 3, 4, 6]] = 0
        silenced[5].weight[:6] = 0
        silenced[5].bias[:6] = 0
    images = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(pruned(images), silenced(images), atol=1e-6, rtol=1e-5)


def test_channels_tied_by_a_residual_addition_and_a_depthwise_layer_go_together():
    pruned, history = prune(Residual(), cfg(), 8)
    assert (pruned.first.out_channels, pruned.second.in_channels, pruned.second.out_channels) == (4, 4, 4)
    assert (pruned.depthwise.groups, pruned.head.in_features, pruned.head.out_features) == (4, 4, 5)
    assert pruned(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert len(history["steps"]) == 1


@pytest.mark.parametrize("make, size", [(chain, 4), (Residual, 8)])
def test_replaying_the_history_from_json_rebuilds_the_pruned_network_exactly(make, size):
    pruned, history = prune(make(), cfg(), size)
    rebuilt = replay(make(), json.loads(json.dumps(history)))
    rebuilt.load_state_dict(pruned.state_dict())
    images = torch.randn(3, 3, size, size)
    assert torch.equal(rebuilt(images), pruned(images))


def test_the_original_is_left_as_it_was():
    model = chain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, cfg(), 4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_left_without_channels_is_named():
    with pytest.raises(TrainError, match=r"ratio: 0.25 .* 0 \(8 channels\) can lose 0 %; use a smaller prune.ratio or"):
        prune(chain(), cfg(ratio=0.25, round_to=8), 4)  # 8 * 0.75 = 6 -> 0; 12 * 0.75 = 9 -> 8


def test_a_network_that_cannot_be_followed_is_refused():
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, images):
            return self.head(torch.from_numpy(self.conv(images).mean(dim=(2, 3)).detach().numpy()))

    with pytest.raises(TrainError, match="^prune"):
        prune(Untraceable(), cfg(), 8)


def test_a_history_of_another_network_is_refused():
    _, history = prune(Residual(), cfg(), 8)
    with pytest.raises(TrainError, match="prune history"):
        replay(chain(), {**history, "image_size": 4})


def test_the_classifier_is_the_layer_that_runs_last_not_the_one_written_last():
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(8, 4), nn.Conv2d(3, 8, 3)

        def forward(self, images):
            return self.head(self.body(images).mean(dim=(2, 3)))

    model = HeadFirst()
    assert classifier(model, torch.zeros(1, 3, 8, 8)) is model.head
    assert prune(model, cfg(), 8)[0].head.weight.shape == (4, 4)


@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("what", ["params", "macs"])
def test_the_target_is_reached_and_with_less_it_would_not_be(what: str, ranking: str) -> None:
    model, field = chain(), {"params": "parameters", "macs": "macs"}[what]
    whole = getattr(cost(model, 4), field)

    def gone(share: float) -> float:
        pruned, _ = prune(model, Channels(method="channels", ranking=ranking, round_to=1, **{what: share}), 4)
        return 1 - getattr(cost(pruned, 4), field) / whole

    assert gone(0.5) >= 0.5
    assert gone(gone(0.5)) == gone(0.5) < gone(gone(0.5) + 1e-6)  # the next share needs another notch


@pytest.mark.parametrize("what", ["params", "macs"])
def test_a_target_out_of_reach_is_refused_with_the_most_there_is(what: str) -> None:
    with pytest.raises(TrainError, match=rf"prune.{what}: 0.9 of the .* cannot be removed, at most 0.\d+ with"):
        prune(chain(), Channels(method="channels", cap=0.3, round_to=1, **{what: 0.9}), 4)


def test_rounds_remove_of_the_original_and_their_steps_repeat_in_order() -> None:
    rounds = Channels(method="channels", ratio=0.5, round_to=1, rounds=3)
    model, whole, steps, widths = chain(), measure_whole(chain(), 4), [], []
    for number in (1, 2, 3):
        model, history = prune_channels(model, rounds, 4, number=number, whole=whole)
        steps += history["steps"]
        widths.append((model[0].out_channels, model[5].out_features))
    # what is left of 8 and 12: 0.5 ** (1/3) = 0.794, 0.630, 0.5
    assert widths == [(6, 9), (5, 7), (4, 6)]
    rebuilt = replay(chain(), {"method": "channels", "image_size": 4, "steps": steps})
    rebuilt.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(rebuilt(images), model(images))

"""Going back to an early epoch: the state is that of the training which the student had, epoch for epoch."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.recipe.schema import Train
from toolchain.steps.fitting import from_labels
from toolchain.steps.pruning_rounds import _train_until
from toolchain.train import Step, fit, label_loss

CFG = Train(epochs=3, batch_size=16)
JOB = SimpleNamespace(recipe=SimpleNamespace(train=CFG, seed=5), dataset=squares)


class Scaled(nn.Module):
    """A loss with a weight of its own, which is trained beside the network."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, model, batch, progress) -> Step:
        step = label_loss(CFG)(model, batch, progress)
        return Step(step.loss * self.scale.sigmoid(), step.logits)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return small_net()


def state_at_epoch(epoch: int, loss, folder) -> dict[str, torch.Tensor]:
    """Of an undisturbed run, copied when the first batch of `epoch` (from 0) is about to be seen."""
    model, seen = net(), {}

    class Looking(Scaled):
        def forward(self, replica, batch, progress) -> Step:
            if progress.epoch == epoch and not seen:
                seen.update(copy.deepcopy(model.state_dict()))
            return super().forward(replica, batch, progress)

    def looking(replica, batch, progress) -> Step:
        if progress.epoch == epoch and not seen:
            seen.update(copy.deepcopy(model.state_dict()))
        return label_loss(CFG)(replica, batch, progress)

    fit(model, squares(), CFG, folder=folder, seed=5, loss=Looking() if isinstance(loss, Scaled) else looking)
    return seen


@pytest.mark.parametrize("loss", [None, Scaled()], ids=["labels", "a loss with weights"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_the_weights_of_an_epoch_are_those_that_the_whole_training_had_then(tmp_path, epoch: int, loss) -> None:
    expected = state_at_epoch(epoch, loss, tmp_path / "whole")

    def taught(*_):
        return from_labels(*_) if loss is None else nullcontext(Scaled())

    for _ in range(2):  # the second time it finds the checkpoints of the first, as after an interruption
        network = net()
        _train_until(epoch, network, JOB, taught, tmp_path / "rewind")
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        assert not network.training and all(parameter.grad is None for parameter in network.parameters())


def test_the_last_epoch_is_the_end_of_training(tmp_path) -> None:
    whole, network = net(), net()
    fit(whole, squares(), CFG, folder=tmp_path / "whole", seed=5)
    _train_until(3, network, JOB, from_labels, tmp_path / "rewind")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in network.state_dict().items())

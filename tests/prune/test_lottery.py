import numpy as np
import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.prune import prune
from toolchain.prune.lottery import random_mask, rewind
from toolchain.prune.zeros import zeros_kept
from toolchain.recipe.prune import Lottery
from toolchain.recipe.schema import Train
from toolchain.train import fit


def cfg(**settings) -> Lottery:
    return Lottery(method="lottery", **settings)


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return small_net()


def trained(folder, seed: int = 0) -> nn.Sequential:
    model = net(seed)
    fit(model, squares(), Train(epochs=1, batch_size=16), folder=folder, seed=seed)
    return model


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def test_a_ticket_is_its_mask_times_the_weights_at_the_beginning_bit_for_bit(tmp_path) -> None:
    ticket, start = prune(trained(tmp_path), cfg(), 8)[0], net(0)
    zeros = {name: (ticket.get_submodule(name).weight == 0).numpy() for name in ("0", "6")}
    assert [int(mask.sum()) for mask in zeros.values()] == [43, 19]  # a fifth of 216 and of 96, rounded
    rewind(ticket, start)
    for name, value in start.state_dict().items():
        expected = value.numpy().copy()
        if name in ("0.weight", "6.weight"):
            expected[zeros[name.removesuffix(".weight")]] = 0.0
        assert bits(ticket.state_dict()[name]) == expected.tobytes(), name  # biases and BatchNorm's statistics too


def test_the_ticket_is_chosen_by_the_trained_weights_not_by_those_it_goes_back_to(tmp_path) -> None:
    model, start = trained(tmp_path), net(0)
    before = model[6].weight.detach().numpy().copy()
    ticket, _ = prune(model, cfg(per_round=0.5), 8)
    rewind(ticket, start)
    gone = np.zeros(96, dtype=bool)
    gone[np.argsort(np.abs(before).flatten(), kind="stable")[:48]] = True
    assert np.array_equal((ticket[6].weight == 0).numpy().flatten(), gone)


def test_zeros_stay_through_rounds_of_training_and_rewinding(tmp_path) -> None:
    model, start, before = trained(tmp_path / "0"), net(0), None
    for number, left in ((1, 173), (2, 138), (3, 110)):  # 216 - 43, 173 - 35, 138 - 28
        model, _ = prune(model, cfg(), 8, number=number)
        rewind(model, start)
        with zeros_kept(model):
            fit(model, squares(), Train(epochs=1, batch_size=16), folder=tmp_path / str(number), seed=0)
        now = model[0].weight.detach() == 0
        assert int((~now).sum()) == left and (before is None or bool(now[before].all()))
        before = now


def test_a_random_mask_has_the_densities_of_the_ticket_and_other_weights(tmp_path) -> None:
    model = trained(tmp_path)
    ticket, facts = prune(model, cfg(scope="global", per_round=0.5), 8)
    control, control_facts = prune(model, cfg(scope="global", per_round=0.5, control="random_mask"), 8, seed=1)
    again, _ = prune(model, cfg(scope="global", per_round=0.5, control="random_mask"), 8, seed=1)
    assert control_facts["density"] == facts["density"]
    assert not torch.equal(control[0].weight == 0, ticket[0].weight == 0)
    assert torch.equal(control[0].weight, again[0].weight)


def test_a_random_mask_keeps_the_zeros_of_the_rounds_before() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0, 3.0], [0.0, 4.0, 5.0, 6.0]])
    drawn = [random_mask(weight, 5, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert all(int(mask.sum()) == 5 and mask[0, 1] and mask[1, 0] for mask in drawn)
    assert torch.stack(drawn)[:, weight != 0].any(dim=0).all()  # every other weight is drawn by some seed


def test_a_reinitialised_control_has_the_mask_of_the_ticket_on_the_weights_of_a_twin(tmp_path) -> None:
    control, twin = prune(trained(tmp_path), cfg(control="reinit"), 8)[0], net(7)
    mask = control[0].weight != 0
    rewind(control, twin)
    assert torch.equal(control[0].weight, torch.where(mask, twin[0].weight, 0.0))
    assert torch.equal(control[1].running_var, torch.ones(8)) and torch.equal(control[0].bias, twin[0].bias)


@pytest.mark.parametrize("settings", [{"rewind": "learning_rate"}, {"rewind_epoch": 0}, {"control": "reinit", "rewind_epoch": 0}])
def test_the_mask_is_the_same_whatever_happens_to_the_weights_afterwards(tmp_path, settings) -> None:
    model = trained(tmp_path)
    assert torch.equal(prune(model, cfg(**settings), 8)[0][0].weight, prune(model, cfg(), 8)[0][0].weight)

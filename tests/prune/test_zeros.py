import copy
import json

import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.errors import TrainError
from toolchain.prune import prune, replay
from toolchain.prune.zeros import zeros_kept
from toolchain.recipe.prune import Magnitude
from toolchain.recipe.schema import AdamW, FineTune, Optimizer, Sgd
from toolchain.train import fit, label_loss

HALF = Magnitude(method="magnitude", amount=0.5, scope="layer")
OPTIMIZERS = [Sgd(method="sgd", lr=0.1, momentum=0.9, weight_decay=0.01), AdamW(method="adamw", lr=0.01, weight_decay=0.1)]


def half_empty() -> nn.Sequential:
    torch.manual_seed(0)
    return prune(small_net(), HALF, 8)[0]


def tuning(optimizer: Optimizer, epochs: int = 2) -> FineTune:
    return FineTune(epochs=epochs, batch_size=16, optimizer=optimizer, clip_norm=0.5, label_smoothing=0.1)


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight.detach() == 0 for name in ("0", "6")}


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["nesterov", "adamw"])
def test_zeros_are_exact_after_training_and_everything_else_has_moved(optimizer: Optimizer, tmp_path) -> None:
    model = half_empty()
    before, start = zeros(model), copy.deepcopy(model)
    with zeros_kept(model):
        fit(model, squares(), tuning(optimizer), folder=tmp_path, seed=0)
    assert [int(mask.sum()) for mask in zeros(model).values()] == [108, 48]  # halves of 8 * 27 and 3 * 32
    for name, mask in zeros(model).items():
        assert torch.equal(mask, before[name])
        moved = model.get_submodule(name).weight != start.get_submodule(name).weight
        assert torch.equal(moved, ~mask)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["nesterov", "adamw"])
def test_a_run_cut_between_epochs_goes_on_with_the_same_zeros(optimizer: Optimizer, tmp_path) -> None:
    class Cut(Exception):
        pass

    def cut_at_the_second_epoch(model, batch, progress):
        if progress.epoch == 1:
            raise Cut
        return label_loss(tuning(optimizer))(model, batch, progress)

    whole, cut, resumed = half_empty(), half_empty(), half_empty()
    with zeros_kept(whole):
        fit(whole, squares(), tuning(optimizer), folder=tmp_path / "whole", seed=0)
    with pytest.raises(Cut), zeros_kept(cut):
        fit(cut, squares(), tuning(optimizer), folder=tmp_path / "cut", seed=0, loss=cut_at_the_second_epoch)
    with zeros_kept(resumed):
        epochs = fit(resumed, squares(), tuning(optimizer), folder=tmp_path / "cut", seed=0)
    assert len(epochs) == 2 and same(resumed, whole)
    assert all(torch.equal(mask, zeros(half_empty())[name]) for name, mask in zeros(resumed).items())


def test_outside_the_block_weights_are_free_again(tmp_path) -> None:
    model = half_empty()
    with zeros_kept(model):
        pass
    fit(model, squares(), tuning(OPTIMIZERS[0]), folder=tmp_path, seed=0)
    assert not any(mask.any() for mask in zeros(model).values())


def test_the_gradient_of_a_zero_weight_is_zero_even_where_a_scaled_loss_overflows() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, 0.0, 2.0]]))
    images = torch.tensor([[3e38, 3.0, 5.0, 4.0]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with zeros_kept(layer):
        scaler.scale((layer.weight * images).sum()).backward()
        assert layer.weight.grad.tolist() == [[0.0, 24.0, 0.0, 32.0]]  # 8 times the images, which overflows at weight 0
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(layer.parameters(), 2.5)  # the norm is 5: halved
        scaler.step(optimizer)
    # w - lr * (1 + momentum) * (g / 2 + weight_decay * w)
    assert layer.weight.tolist()[0] == pytest.approx([0.0, 1 - 0.95 * (1.5 + 0.1), 0.0, 2 - 0.95 * (2.0 + 0.2)], abs=1e-6)
    assert layer.weight[0, 0] == 0 and layer.weight[0, 2] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: fp16 with a scaled loss")
def test_zeros_are_exact_after_training_on_a_gpu_in_half_precision(tmp_path) -> None:
    model = half_empty()
    before = zeros(model)
    with zeros_kept(model):
        fit(model, squares(), tuning(OPTIMIZERS[0]).model_copy(update={"mixed_precision": "fp16"}), folder=tmp_path, seed=0)
    assert all(torch.equal(mask, before[name]) for name, mask in zeros(model).items())


def test_frozen_weights_are_no_trouble() -> None:
    model = half_empty()
    model[0].requires_grad_(False)
    with zeros_kept(model):
        model(torch.zeros(2, 3, 8, 8)).sum().backward()
    assert model[0].weight.grad is None and not model[6].weight.grad[zeros(model)["6"]].any()


def test_a_history_changes_no_shape_and_is_refused_by_another_network() -> None:
    pruned, history = prune(small_net(), HALF, 8)
    rebuilt = replay(small_net(), json.loads(json.dumps(history)))
    rebuilt.load_state_dict(pruned.state_dict())
    assert same(rebuilt, pruned)
    with pytest.raises(TrainError, match="prune history: it was written for another network; 0 is a layer of only one"):
        replay(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3)), history)

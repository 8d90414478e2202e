import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from train_data import SIZE, small_net, squares

from toolchain.checkpoint import best_epoch
from toolchain.errors import DigestMismatch, TrainError
from toolchain.optimizer import autocast_options, learning_rate_factor, make_optimizer
from toolchain.recipe.schema import AdamW, Sgd, Train
from toolchain.train import Step, cross_entropy, evaluate, fit, label_loss

CFG = Train(epochs=4, batch_size=16, optimizer=Sgd(method="sgd", lr=0.05), mixed_precision="no")


class Interrupted(Exception):
    """Stands for Ctrl-C or a kill in the middle of an epoch."""


def net(**kwargs) -> nn.Sequential:
    torch.manual_seed(5)
    return small_net(**kwargs)


def interrupt_after(epochs: int, steps: int = 6):
    """label_loss that raises in the second step of the epoch that follows `epochs` whole ones."""
    plain, calls = label_loss(CFG), iter(range(10**6))

    def loss(model, batch, progress):
        if next(calls) == epochs * steps + 1:
            raise Interrupted
        return plain(model, batch, progress)

    return loss


def run(folder: Path, cfg: Train = CFG, loss=None, seed: int = 3):
    model = net()
    history = fit(model, squares(), cfg, folder=folder, seed=seed, loss=loss)
    return model.state_dict(), [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


def assert_same(one, other) -> None:
    (weights, history), (other_weights, other_history) = one, other
    assert history == other_history
    assert weights.keys() == other_weights.keys()
    for name, value in weights.items():
        assert torch.equal(value, other_weights[name]), name


def test_training_learns_the_colours(tmp_path):
    model, data = net(), squares()
    history = fit(model, data, CFG.model_copy(update={"epochs": 8}), folder=tmp_path, seed=0)
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert history[-1]["val_top1"] > 90
    assert history[-1]["val_top1"] == evaluate(model, data.val, data.preprocess, 7)
    assert not model.training


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("optimizer", [Sgd(method="sgd", lr=0.05), AdamW(method="adamw", lr=0.01)])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path, optimizer, precision):
    cfg = CFG.model_copy(update={"optimizer": optimizer, "mixed_precision": precision})
    undisturbed = run(tmp_path / "whole", cfg)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", cfg, loss=interrupt_after(2))
    assert json.loads((tmp_path / "cut/checkpoints/checkpoint.json").read_text())["epoch"] == 2
    assert_same(run(tmp_path / "cut", cfg), undisturbed)


def test_a_run_interrupted_many_times_still_ends_the_same(tmp_path):
    undisturbed = run(tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(tmp_path / "cut", loss=interrupt_after(1))  # each try gets one epoch further
    assert_same(run(tmp_path / "cut"), undisturbed)


def test_a_finished_run_is_not_trained_again(tmp_path):
    finished = run(tmp_path)
    assert_same(run(tmp_path, loss=interrupt_after(0, steps=0)), finished)


@pytest.mark.parametrize("change", [{"cfg": CFG.model_copy(update={"batch_size": 32})}, {"seed": 4}])
def test_a_checkpoint_of_another_run_is_left_aside_and_said_so(tmp_path, change, capsys):
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", loss=interrupt_after(2))
    assert_same(run(tmp_path / "cut", **change), run(tmp_path / "whole", **change))
    assert capsys.readouterr().err.count("holds epochs of another run") == 1


def overshooting(folder: Path, loss=None):
    """lr 0 would never improve: the first epoch is the best, and patience 2 ends the run after the third."""
    cfg = CFG.model_copy(update={"epochs": 9, "early_stopping": 2, "optimizer": Sgd(method="sgd", lr=1e-9)})
    return run(folder, cfg, loss)


def test_early_stopping_ends_the_run_and_gives_back_the_best_epoch(tmp_path):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights, history = overshooting(tmp_path)
    best = best_epoch(history)
    assert len(history) == best + 2
    assert weights["1.num_batches_tracked"].item() == best * 6  # BatchNorm counted the best epoch's steps, no more
    assert torch.allclose(weights["0.weight"], before["0.weight"], atol=1e-6)


def test_early_stopping_survives_an_interruption(tmp_path):
    undisturbed = overshooting(tmp_path / "whole")
    with pytest.raises(Interrupted):
        overshooting(tmp_path / "cut", interrupt_after(len(undisturbed[1]) - 1))
    assert_same(overshooting(tmp_path / "cut"), undisturbed)


def test_only_the_last_and_the_best_epoch_are_kept_and_nothing_is_pickled(tmp_path):
    _, history = run(tmp_path)
    files = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    kept = {f"epoch_{epoch:04d}.safetensors" for epoch in (4, best_epoch(history))}
    assert files == kept | {"checkpoint.json"}


def test_a_tampered_tensor_file_is_named_with_the_way_out(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, loss=interrupt_after(1))
    file = tmp_path / "checkpoints/epoch_0001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DigestMismatch, match=r"epoch_0001.safetensors: SHA-256 differs.*remove the folder"):
        run(tmp_path)


@pytest.mark.parametrize("change", [lambda text: text.replace('"epoch": 1', '"epoch": 0'), lambda text: text[:50]])
def test_an_edited_or_truncated_record_is_named(tmp_path, change):
    with pytest.raises(Interrupted):
        run(tmp_path, loss=interrupt_after(1))
    file = tmp_path / "checkpoints/checkpoint.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(DigestMismatch, match="checkpoint.json: damaged or edited"):
        run(tmp_path)


def test_a_missing_tensor_file_is_named(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, loss=interrupt_after(1))
    (tmp_path / "checkpoints/epoch_0001.safetensors").unlink()
    with pytest.raises(DigestMismatch, match="epoch_0001.safetensors"):
        run(tmp_path)


def test_a_loss_that_is_not_a_number_names_epoch_step_and_remedy(tmp_path):
    plain, calls = label_loss(CFG), iter(range(100))

    def loss(model, batch, progress):
        step = plain(model, batch, progress)
        return step._replace(loss=step.loss * math.nan) if next(calls) == 6 + 2 else step

    with pytest.raises(TrainError, match=r"loss is nan at epoch 2, step 3 .*smaller optimizer.lr \(now 0.05\)"):
        run(tmp_path, loss=loss)
    assert json.loads((tmp_path / "checkpoints/checkpoint.json").read_text())["epoch"] == 1


def test_a_model_with_other_classes_is_refused_before_training(tmp_path):
    with pytest.raises(TrainError, match=r"shape \(1, 4\), but dataset squares has 3 classes"):
        fit(net(classes=4), squares(), CFG, folder=tmp_path, seed=0)
    assert not (tmp_path / "checkpoints").exists()


def test_a_last_batch_of_one_image_does_not_reach_batchnorm(tmp_path):
    seen = []
    plain = label_loss(CFG)

    def loss(model, batch, progress):
        seen.append(len(batch.labels))
        return plain(model, batch, progress)

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    fit(model, squares(33), CFG.model_copy(update={"epochs": 1}), folder=tmp_path, seed=0, loss=loss)
    assert seen == [16, 16]


class Scaled(nn.Module):
    """A loss with a weight and a count of its own: what a method trains beside the student."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.progress: list[tuple[int, int]] = []

    def forward(self, model, batch, progress):
        self.steps += 1
        self.progress.append(tuple(progress))
        logits = self.scale(model(batch.images).float())
        return Step(nn.functional.cross_entropy(logits, batch.labels), logits, {"epoch": progress.epoch, "two": 2.0})


def own_loss(calls_left: int = 10**6):
    torch.manual_seed(11)
    loss = Scaled()

    def count(*_):
        nonlocal calls_left
        calls_left -= 1
        if calls_left < 0:
            raise Interrupted

    loss.register_forward_pre_hook(count)
    return loss


def test_a_loss_with_weights_is_trained_beside_the_model_and_told_the_epoch(tmp_path):
    loss = own_loss()
    before = loss.scale.weight.detach().clone()
    model = net()
    history = fit(model, squares(), CFG, folder=tmp_path, seed=3, loss=loss)
    assert not torch.equal(loss.scale.weight, before)
    assert loss.steps.item() == 4 * 6
    assert loss.progress == [(epoch, 4) for epoch in range(4) for _ in range(6)]
    assert [epoch["parts"] for epoch in history] == [{"epoch": epoch, "two": 2.0} for epoch in range(4)]
    assert set(model.state_dict()) == set(net().state_dict())


def test_a_resumed_run_gives_the_loss_its_weights_and_state_back(tmp_path):
    whole, loss = run(tmp_path / "whole", loss=(one := own_loss())), own_loss(6 * 2 + 1)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", loss=loss)
    assert_same(run(tmp_path / "cut", loss=(other := own_loss())), whole)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_no_epochs_leave_the_weights_as_they_were(tmp_path):
    model = net()
    fit(model, squares(), CFG.model_copy(update={"epochs": 0}), folder=tmp_path, seed=0)
    assert all(torch.equal(value, net().state_dict()[name]) for name, value in model.state_dict().items())


def test_one_cycle_rises_to_one_and_falls_to_almost_nothing():
    factors = [learning_rate_factor("one_cycle", step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[15] == pytest.approx((1 / 25 + 1) / 2)  # half way up the cosine
    assert factors[30] == pytest.approx(1.0)
    assert max(factors) == pytest.approx(1.0)
    assert factors[99] == pytest.approx(1 / 25 * 1e-4)
    assert factors[:31] == sorted(factors[:31]) and factors[30:] == sorted(factors[30:], reverse=True)


def test_cosine_falls_from_one_and_constant_stays():
    assert learning_rate_factor("cosine", 0, 10) == 1.0
    assert learning_rate_factor("cosine", 5, 10) == pytest.approx(0.5)
    assert learning_rate_factor("constant", 7, 10) == 1.0
    assert learning_rate_factor("one_cycle", 0, 1) == pytest.approx(1 / 25)


def test_sgd_takes_the_nesterov_step_worked_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model, Sgd(method="sgd", lr=0.1, momentum=0.5, weight_decay=0.2))
    model.weight.grad = torch.full((1, 1), 2.0)
    optimizer.step()  # g = 2 + 0.2 * 1 = 2.2; buffer = 2.2; step = g + 0.5 * buffer = 3.3
    assert model.weight.item() == pytest.approx(1 - 0.1 * 3.3)


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/4, 3/4
    value = cross_entropy(logits, torch.tensor([1]), Train(label_smoothing=0.2))
    assert value.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_automatic_precision_on_a_cpu_follows_its_instructions():
    capable = torch.cpu.get_capabilities()
    expected = bool(capable.get("avx512_bf16") or capable.get("amx_bf16"))
    assert autocast_options("auto", torch.device("cpu"))["enabled"] == expected
    assert autocast_options("bf16", torch.device("cpu")) == {"enabled": True, "dtype": torch.bfloat16}
    assert autocast_options("no", torch.device("cpu")) == {"enabled": False}


def test_two_processes_end_with_the_same_weights_and_only_rank_0_writes(tmp_path):
    here = Path(__file__).parent
    # --multi_gpu is accelerate's name for its torchrun launcher; on the CPU it starts gloo processes
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
           "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
               str(here / "two_processes.py"), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["taught"] == ranks[1]["taught"]
    assert ranks[0]["history"] == ranks[1]["history"]
    assert ranks[0]["indices"] and not set(ranks[0]["indices"]) & set(ranks[1]["indices"])
    assert [rank["wrote"] for rank in ranks] == [True, False]
    assert done.stderr.count("train: epoch 2/2") == done.stderr.count("taught: epoch 2/2") == 1

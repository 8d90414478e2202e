"""Training, pruning and QAT on the real digits, small enough for every run of the tests."""

import pytest
import torch

from toolchain.data import load_dataset
from toolchain.models import create_model
from toolchain.models.fold import fold_batchnorm
from toolchain.models.store import load_model, save_model
from toolchain.prune import prune
from toolchain.quantize.qat import layers_in_order, qat
from toolchain.recipe.schema import Channels, Digits, FineTune, Qat, QatTrain, Sgd, TorchModel, Train
from toolchain.train import evaluate, fit

NET = TorchModel(arch="vgg11_bn", width=0.125)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other make tiny layers ten times slower where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_narrow_vgg_learns_digits_and_keeps_it_through_pruning_storing_and_qat(tmp_path):
    data = load_dataset(Digits(source="digits"), [])
    torch.manual_seed(0)
    model = create_model(NET, 10)
    history = fit(model, data, Train(epochs=10), folder=tmp_path / "train", seed=0)
    assert history[-1]["val_top1"] >= 90

    pruned, steps = prune(model, Channels(method="channels", ratio=0.25, round_to=2), 32)
    tuned = fit(pruned, data, FineTune(epochs=2, optimizer=Sgd(method="sgd", lr=0.02)), folder=tmp_path / "prune", seed=1)
    assert tuned[-1]["val_top1"] >= 90

    save_model(tmp_path / "model", pruned, {"model": NET.model_dump(), "num_classes": 10, "pruned": steps, "folded": False})
    stored = load_model(tmp_path / "model")
    before = evaluate(stored, data.val, data.preprocess, 64)
    assert before == evaluate(pruned, data.val, data.preprocess, 64)

    folded = fold_batchnorm(stored)
    amax = largest_inputs(folded, torch.from_numpy(data.preprocess.normalize(data.train.images(range(128)))))
    cfg = Qat(method="qat", train=QatTrain(epochs=1))
    _, learned, quantized = qat(folded, data, cfg, amax, folder=tmp_path / "qat", seed=2)
    assert len(learned) == 9  # eight convolutions and the head
    assert quantized[-1]["val_top1"] >= before - 3


def largest_inputs(model, images) -> dict[str, float]:
    """max |input| of every layer: the simplest calibration there is."""
    seen: dict[str, float] = {}
    hooks = [model.get_submodule(name).register_forward_pre_hook(
        lambda _, inputs, name=name: seen.update({f"{name}.weight": inputs[0].abs().max().item()}))
        for name in layers_in_order(model, 32)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen

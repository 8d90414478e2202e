"""Rounds of channel pruning go on where they were stopped."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.recipe.schema import Channels, FineTune
from toolchain.steps import rounds
from toolchain.steps.fitting import from_labels
from toolchain.steps.pruning_channels import _penalised, pruned_by_channels
from toolchain.steps.saliency_images import saliency_batches
from toolchain.train import label_loss

JOB = SimpleNamespace(recipe=SimpleNamespace(seed=3, data=SimpleNamespace(image_size=8)), dataset=squares)


def cfg(**settings) -> Channels:
    tuned = FineTune(epochs=1, batch_size=16)
    return Channels(method="channels", ratio=0.5, round_to=1, finetune=tuned, **settings)


@pytest.fixture
def stored(monkeypatch) -> SimpleNamespace:
    """The student, stored in memory: loading and saving are those of a dict of networks."""
    from toolchain.models import store

    torch.manual_seed(0)
    kept = {"student": (small_net().eval(), {"pruned": None})}
    monkeypatch.setattr(store, "load_model", lambda folder: kept[str(folder).split("/")[-1]][0])
    monkeypatch.setattr(store, "load_architecture", lambda folder: kept[str(folder).split("/")[-1]][1])

    def save(folder, model, architecture):
        folder.mkdir(parents=True, exist_ok=True)
        kept[folder.name] = (model, architecture)
        (folder / "architecture.json").write_text(json.dumps(architecture))

    monkeypatch.setattr(store, "save_model", save)
    return SimpleNamespace(kept=kept, student=SimpleNamespace(folder="student"))


def test_a_finished_round_is_not_done_again(tmp_path, stored, monkeypatch) -> None:
    seen, keep = [], rounds.keep_history

    def cut(folder, history):
        seen.append(folder.name)
        keep(folder, history)
        if seen == ["round_1"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "keep_history", cut)
    folder = tmp_path / "prune"
    with pytest.raises(KeyboardInterrupt):
        pruned_by_channels(JOB, cfg(rounds=2), stored.student, from_labels, folder)
    pruned_by_channels(JOB, cfg(rounds=2), stored.student, from_labels, folder)
    assert seen == ["round_1", "round_2", "prune"]
    model, architecture = stored.kept["prune"]
    records = architecture["pruned"]["rounds"]
    assert model[0].out_channels == 4 and len(architecture["pruned"]["steps"]) == 2
    assert [(record["round"], record["epochs"]) for record in records] == [(1, 1), (2, 1)]
    # 27 k + k weights and biases, 2 k of BatchNorm, 4 k * 3 + 3 of the head, k = 5 (8 * 0.707) and 4
    assert [record["parameters"] for record in records] == [42 * 5 + 3, 42 * 4 + 3]
    assert [record["macs"] for record in records] == [(64 * 27 + 12) * 5, (64 * 27 + 12) * 4]
    assert not list(folder.glob("round_*"))


def test_taylors_images_are_the_same_each_time() -> None:
    first, again = saliency_batches(JOB, "taylor"), saliency_batches(JOB, "taylor")
    assert sum(len(labels) for _, labels in first) == 96  # all that there are
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert saliency_batches(JOB, "l2") == ()


class OwnWeights(nn.Module):
    def forward(self, model, batch, progress):
        return label_loss(FineTune())(model, batch, progress)


@pytest.mark.parametrize("loss", [label_loss(FineTune()), OwnWeights()], ids=["function", "module"])
def test_the_penalty_is_added_to_the_lesson_and_told_apart(loss) -> None:
    model = small_net(dropout=0.0)
    batch = SimpleNamespace(images=torch.randn(4, 3, 8, 8), labels=torch.tensor([0, 1, 2, 0]))
    with _penalised(loss, 0.1, model, 8) as sparse:
        step = sparse(model, batch, None)
    plain = label_loss(FineTune())(model, batch, None).loss
    assert step.parts["group_lasso"] > 0
    assert (step.loss - step.parts["group_lasso"]).item() == pytest.approx(plain.item(), rel=1e-4)

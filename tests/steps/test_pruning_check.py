"""A recipe whose pruning cannot work is refused on an untrained network, before anything is trained."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from train_data import squares

from toolchain.errors import ToolchainError
from toolchain.prune import replay
from toolchain.recipe.schema import Recipe
from toolchain.steps.pruning import _conditions
from toolchain.steps.pruning_check import check_pruning


def job(prune: object, arch: str = "vgg11_bn", **fields: object) -> SimpleNamespace:
    recipe = Recipe.model_validate({"name": "r", "model": {"arch": arch, "width": 0.125}, "prune": prune, **fields})
    return SimpleNamespace(recipe=recipe, base=Path(), dataset=squares)


@pytest.mark.parametrize(("prune", "arch", "words"), [
    ({"method": "channels", "ratio": 0.9, "cap": 0.95}, "vgg11_bn", ["prune.ratio: 0.9", "features.0 (8 channels)"]),
    ({"method": "channels", "params": 0.99}, "vgg11_bn", ["prune.params: 0.99", "at most 0."]),
    ({"method": "channels", "saliency": "bn_gamma", "round_to": 1}, "squeezenet1_1", ["bn_gamma", "no BatchNorm", "l1"]),
    ({"method": "latency", "saliency": "bn_gamma"}, "squeezenet1_1", ["bn_gamma", "no BatchNorm"]),
    ({"method": "greedy", "params": 0.995, "cap": 0.5}, "vgg11_bn", ["0.995", "at most"]),
    ({"method": "greedy", "scan": {"file": "nowhere.json"}}, "vgg11_bn", ["nowhere.json"]),
    ({"method": "magnitude", "amount": 0.5, "scope": "sensitivity", "scan": {"file": "nowhere.json"}}, "vgg11_bn",
     ["nowhere.json"]),
])
def test_what_no_training_can_mend_is_refused_without_any(prune: dict, arch: str, words: list[str]) -> None:
    with pytest.raises(ToolchainError) as refused:
        check_pruning(job(prune, arch))
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("prune", [
    None, {"method": "channels", "ratio": 0.5, "round_to": 1, "saliency": "taylor"}, {"method": "greedy", "params": 0.5},
    {"method": "lottery"}, {"method": "low_rank"}, {"method": "sparse24"}])
def test_what_can_work_passes(prune: dict | None) -> None:
    check_pruning(job(prune))


def test_layers_timed_under_other_conditions_are_timed_again() -> None:
    low_rank = {"method": "low_rank"}
    asked = [job(low_rank, measure={"batch": batch, "threads": threads}) for batch, threads in ((1, 1), (8, 1), (1, 2))]
    found = [_conditions(one, one.recipe.prune) for one in asked]
    assert found[0] != found[1] and found[0] != found[2] and found[0]
    assert _conditions(job({**low_rank, "engine": None}), job({**low_rank, "engine": None}).recipe.prune) == []


@pytest.mark.parametrize("history", [
    {"method": "foo"}, {}, {"method": "low_rank", "image_size": 32}, {"method": "channels"},
    {"method": "channels", "image_size": 32, "steps": [1]}, [1]])
def test_a_damaged_record_of_pruning_is_a_plain_error(history: object) -> None:
    with pytest.raises(ToolchainError, match="prune history"):
        replay(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 900, 2)), history)

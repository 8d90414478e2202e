"""What a recipe may not ask of pruning, and what the message says."""

import pytest

from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe


def load(folder, prune: str, more: str = ""):
    path = folder / "r.yaml"
    path.write_text(f"name: a\nmodel: {{arch: vgg11_bn}}\ntrain: {{epochs: 4}}\nprune: {prune}\n{more}")
    return load_recipe(path)


@pytest.mark.parametrize(("prune", "words"), [
    ("{method: magnitude}", ("prune", "amount", "per_round", "found neither")),
    ("{method: magnitude, amount: 0.5, per_round: 0.2}", ("found both",)),
    ("{method: magnitude, amount: 1}", ("amount",)),
    ("{method: magnitude, amount: 0.995}", ("only 0.5 % of the weights would be left", "at least 1 %")),
    ("{method: magnitude, per_round: 0.5, rounds: 7}", ("only 0.78 % of the weights would be left", "fewer rounds")),
    ("{method: lottery, rounds: 30}", ("only 0.12 % of the weights would be left",)),
    ("{method: lottery, rewind: learning_rate, rewind_epoch: 1}", ("rewind_epoch: found 1", "keeps the weights")),
    ("{method: lottery, rewind: learning_rate, control: reinit}", ("control: found reinit", "keeps the weights")),
    ("{method: lottery, control: reinit, rewind_epoch: 2}", ("rewind_epoch: found 2", "never trained")),
    ("{method: lottery, rewind_epoch: 5}", ("prune.rewind_epoch: found 5, but train.epochs is 4",)),
    ("{method: lottery, finetune: {epochs: 2}}", ("finetune: unknown key",)),
    ("{method: sparse24, amount: 0.5}", ("amount: unknown key",)),
    ("{method: magnitude, amount: 0.7, scope: sensitivity, scan: {ratios: [0.5]}}",
     ("scan.ratios end at 0.5", "0.7 of the weights", "larger ratios")),
    ("{method: magnitude, amount: 0.5, scope: sensitivity, scan: {ratios: [0.5, 0.3]}}", ("expected rising shares", "0.5, 0.3")),
    ("{method: channels, ratio: 0.5, macs: 0.5}", ("give one of ratio, params and macs, found ratio and macs",)),
    ("{method: channels, ratio: 0.95}", ("ratio: found 0.95, above the cap of 0.9",)),
    ("{method: low_rank, energy: 0.9, rank: 0.5}", ("give one of energy, rank and params, found energy and rank",)),
    ("{method: latency, budget: 1.5}", ("budget",)),
    ("{method: greedy, cap: 1}", ("cap",)),
    ("{method: magnitud, amount: 0.5}", ("did you mean 'magnitude'?",)),
])
def test_a_mistake_is_refused_when_the_recipe_is_read(tmp_path, prune: str, words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, prune)
    for word in words:
        assert word in str(caught.value)


def test_amount_stays_an_amount_when_the_defaults_are_written_back(tmp_path) -> None:
    from toolchain.recipe.load import resolved_yaml

    recipe = load(tmp_path, "{method: lottery, rewind: learning_rate}")
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    magnitude = load(tmp_path, "{method: magnitude, per_round: 0.2, rounds: 3}")
    (tmp_path / "again.yaml").write_text(resolved_yaml(magnitude))
    assert load_recipe(tmp_path / "again.yaml") == magnitude

"""What holds for every method of pruning."""

from typing import get_args

from toolchain.prune import REPLAYS, SMALLER, SPARSER
from toolchain.recipe.schema import Prune


def test_every_method_of_the_recipe_has_a_pruner_and_a_replay() -> None:
    sections = get_args(get_args(Prune)[0])
    methods = {get_args(section.model_fields["method"].annotation)[0] for section in sections}
    assert set(SMALLER) | set(SPARSER) == set(REPLAYS) == methods
    assert not set(SMALLER) & set(SPARSER)

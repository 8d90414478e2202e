"""What holds for every method of pruning."""

import re
from pathlib import Path
from typing import get_args

from toolchain.prune import REPLAYS, SMALLER, SPARSER
from toolchain.recipe.schema import Prune
from toolchain.steps.pruning import STEPS


def test_every_method_of_the_recipe_has_a_step_and_a_replay() -> None:
    sections = get_args(get_args(Prune)[0])
    methods = {get_args(section.model_fields["method"].annotation)[0] for section in sections}
    assert set(STEPS) == set(REPLAYS) == methods
    assert not set(SMALLER) & set(SPARSER)


def test_the_readme_has_a_table_with_each_of_them() -> None:
    table = (Path(__file__).parents[2] / "README.md").read_text().split("| `prune.method` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(REPLAYS)

"""What the stages of QAT and of repair go by: nothing that another engine's section says."""

from types import SimpleNamespace
from typing import Any

import pytest

from toolchain.recipe.schema import Recipe
from toolchain.steps.repairing import repaired
from toolchain.steps.tuning import fine_tuned_quantized

STAGE: Any = SimpleNamespace(name="before", folder=None)


def sections(tmp_path, precision, **quantize):
    """Stage name -> the section that its key holds; no stage runs."""
    found = {}
    stages = SimpleNamespace(stage=lambda name, make, section=None, **_: found.update({name: section}) or STAGE)
    recipe = Recipe.model_validate({"name": "squares", "model": {"arch": "vgg11_bn"}, "quantize": quantize})
    job: Any = SimpleNamespace(recipe=recipe, work=stages, base=tmp_path, data=STAGE)
    if quantize["method"] == "qat":
        fine_tuned_quantized(job, STAGE, STAGE, STAGE, precision)
    else:
        repaired(job, STAGE, STAGE, precision)
    return found


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("quantize", [{"method": "qat"}, {"method": "ptq", "repair": "auto"}])
def test_another_mixed_policy_repeats_neither_qat_nor_repair(tmp_path, quantize, precision):
    plain = sections(tmp_path, precision, **quantize)
    assert f"{'qat' if quantize['method'] == 'qat' else 'repair'}_{precision}" in plain
    for policy in ("simple", "adaptive"):
        assert sections(tmp_path, precision, **quantize, mixed={"policy": policy}) == plain
    assert sections(tmp_path, precision, **quantize, **{precision: {"first_last": "float"}}) != plain

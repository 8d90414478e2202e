"""The network of a recipe and a batch of its training images, for `toolchain explain formats`; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import RecipeError
from toolchain.recipe.schema import Recipe, TorchModel
from toolchain.steps.job import Job, open_job
from toolchain.steps.student import float_student, teacher
from toolchain.workdir import WorkDir

if TYPE_CHECKING:
    from torch import nn

    from toolchain.explain.underflow import Losses

MOST_IMAGES = 64  # in the one batch, where the recipe's is larger


def losses_of(
    recipe: Recipe, work: WorkDir, base: Path, roots: Sequence[Path], imports: Sequence[Path] = ()
) -> tuple[Losses, str]:
    """What number formats lose of the recipe's student in one training step, and where that network came from.

    It is the trained one where a build left it in `work` (which must be dry), else a fresh one. Raises RecipeError
    for a network that cannot be trained; DataError.
    """
    import numpy as np
    import torch

    from toolchain.explain.underflow import losses

    if not isinstance(recipe.model, TorchModel):
        raise RecipeError("model.onnx is an ONNX file, which has no gradients; name a recipe with model.arch")
    job = open_job(recipe, work, base, roots, imports)
    model, where = _network(job)
    data, count = job.dataset(), min(recipe.train.batch_size, MOST_IMAGES)
    rows = np.sort(np.random.default_rng(recipe.seed).permutation(len(data.train))[:count])
    pixels = torch.from_numpy(data.preprocess.normalize(data.train.images(rows)))
    labels = torch.from_numpy(np.asarray(data.train.labels)[rows]).long()
    return losses(model, pixels, labels, recipe.seed), f"{where}, {len(rows)} images of {data.name}"


def _network(job: Job) -> tuple[nn.Module, str]:
    from toolchain.models import create_model
    from toolchain.models.store import load_model

    recipe = job.recipe
    assert isinstance(recipe.model, TorchModel)
    plain = recipe.model_copy(update={"measure": recipe.measure.model_copy(update={"fidelity": None})})
    listed = replace(job, recipe=plain)
    found = float_student(listed, teacher(listed))
    if found.cached:
        return load_model(found.folder), f"its student as `{found.name}` left it"
    import torch

    torch.manual_seed(recipe.seed)
    network = create_model(recipe.model, len(job.dataset().classes), recipe.data.image_size)
    return network, "its student, not trained yet (build it first to see the trained one)"

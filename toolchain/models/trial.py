"""One image through a network that was just constructed, so that a misfit is named before any training."""

from __future__ import annotations

import torch
from torch import nn

from toolchain.errors import RecipeError


def check_forward(model: nn.Module, arch: str, num_classes: int, image_size: int) -> None:
    """Raise RecipeError if float32 (1, 3, S, S) does not go in, or logits (1, K) do not come out.

    The mode the model is in does not change; nothing in it is trained or counted.
    """
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # torch's complaints about shapes, or whatever a user's own network raises
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"model.arch {arch}: cannot take images of {image_size}x{image_size} pixels ({said}); use a "
                          "larger data.image_size, or another model.form") from error
    finally:
        model.train(training)
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (1, num_classes):
        found = f"shape {shape}" if shape else type(logits).__name__
        raise RecipeError(f"model.arch {arch}: gives {found} for one image, "
                          f"expected logits of shape (1, {num_classes}): one per class of the dataset")

"""Networks by name. The modules of this room import torch; this one only when a network is constructed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import RecipeError, ToolchainError, nearest
from toolchain.recipe.schema import TorchModel

if TYPE_CHECKING:
    from torch import nn

Constructor = Callable[[int, str, float], "nn.Module"]  # (num_classes, form, width)


def _listed(family: str, arch: str) -> Constructor:
    def construct(num_classes: int, form: str, width: float) -> nn.Module:
        return import_module(f"toolchain.models.{family}").construct(arch, num_classes, form, width)

    return construct


MODELS: dict[str, Constructor] = {
    "vgg11": _listed("vgg", "vgg11"),
    "vgg11_bn": _listed("vgg", "vgg11_bn"),
    "vgg13": _listed("vgg", "vgg13"),
    "vgg13_bn": _listed("vgg", "vgg13_bn"),
    "vgg16": _listed("vgg", "vgg16"),
    "vgg16_bn": _listed("vgg", "vgg16_bn"),
    "vgg19": _listed("vgg", "vgg19"),
    "vgg19_bn": _listed("vgg", "vgg19_bn"),
    "resnet18": _listed("resnet", "resnet18"),
    "resnet34": _listed("resnet", "resnet34"),
    "resnet50": _listed("resnet", "resnet50"),
    "mobilenet_v2": _listed("mobilenet", "mobilenet_v2"),
    "squeezenet1_0": _listed("squeezenet", "squeezenet1_0"),
    "squeezenet1_1": _listed("squeezenet", "squeezenet1_1"),
    "studentnet": _listed("studentnet", "studentnet"),
}


def create_model(cfg: TorchModel, num_classes: int, image_size: int | None = None) -> nn.Module:
    """The network of a recipe's model section, in training mode, with its weights loaded where it names some.

    image_size: when given, the network is tried on one image of that size first. Raises RecipeError for an unknown
    name or a constructor, class count or image size that does not fit; DataError and TrainError for weights.
    """
    if cfg.arch not in MODELS:
        raise RecipeError(f"model.arch: '{cfg.arch}' is not known{nearest(cfg.arch, MODELS)}; expected "
                          f"{', '.join(MODELS)}, or a name that a file given by --import adds")
    model = _constructed(cfg, num_classes)
    if image_size is not None:
        from toolchain.models.trial import check_forward

        check_forward(model, cfg.arch, num_classes, image_size)
    if cfg.weights is not None:
        from toolchain.models.weights import load_weights

        load_weights(model, cfg, num_classes)
    return model


def import_models(path: Path) -> dict[str, Constructor]:
    """Run the user's file and add its networks to MODELS; the command line's --import, never a recipe, calls this.

    The file defines `MODELS = {"name": constructor}`; each is called as constructor(num_classes, form, width) and
    returns an nn.Module from float32 (N, 3, S, S) to logits (N, K). Returns what was added. Raises RecipeError.
    """
    if not path.is_file():
        raise RecipeError(f"--import {path}: there is no such file; expected a Python file that defines MODELS")
    spec = importlib.util.spec_from_file_location(f"toolchain_imported_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"--import {path}: is not a Python file; expected one that defines MODELS")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"--import {path}: running it failed: {type(error).__name__}: {error}") from error
    added = getattr(module, "MODELS", None)
    named = isinstance(added, dict) and all(isinstance(n, str) and callable(c) for n, c in added.items())
    if not added or not named:
        raise RecipeError(f"--import {path}: expected MODELS = {{\"name\": constructor, …}}, found {added!r}")
    taken = [name for name in added if name in LISTED]
    if taken:
        raise RecipeError(f"--import {path}: a network of our own is named {', '.join(taken)}; choose another name")
    MODELS.update(added)
    return added


LISTED: Sequence[str] = tuple(MODELS)


def _constructed(cfg: TorchModel, num_classes: int) -> nn.Module:
    if cfg.arch in LISTED:
        return MODELS[cfg.arch](num_classes, cfg.form, cfg.width)
    try:
        return MODELS[cfg.arch](num_classes, cfg.form, cfg.width)
    except ToolchainError:
        raise
    except Exception as error:  # the user's own code
        raise RecipeError(f"model.arch {cfg.arch}: its constructor failed when called with (num_classes={num_classes}, "
                          f"form='{cfg.form}', width={cfg.width}): {type(error).__name__}: {error}") from error

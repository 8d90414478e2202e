"""Weights to start from: a .safetensors or .pth state dict, or torchvision's, fetched where a network exists."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolchain.console import log
from toolchain.errors import DataError, RecipeError, TrainError
from toolchain.recipe.schema import TorchModel

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "model")  # keys under which training scripts put the state dict


def load_weights(model: nn.Module, cfg: TorchModel, num_classes: int) -> None:
    """Load cfg.weights into `model`, in place.

    Raises DataError for a file that is missing, damaged or cannot be fetched, TrainError for weights of another
    network or number of classes, RecipeError where torchvision has none of this form.
    """
    if cfg.weights == "torchvision":
        state, place = torchvision_state(cfg), f"torchvision's {cfg.arch}"
        state = replace_head(model, state, num_classes)
    else:
        path = Path(str(cfg.weights))
        state, place = read_state(path), str(path)
    check_state(model, state, place)
    model.load_state_dict(state)


def read_state(path: Path) -> State:
    """The state dict of a .safetensors or .pth file; pickled code is never run. Raises DataError."""
    if not path.is_file():
        raise DataError(f"model.weights: {path} does not exist; expected a .safetensors or .pth file, or 'torchvision'")
    try:
        found: Any = (load_file(path) if path.suffix == ".safetensors"
                      else torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: is damaged, or holds Python objects beside tensors, which are never loaded "
                        f"({_first_line(error)}); save it with torch.save(model.state_dict(), …)") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{path}: is not a whole weights file ({_first_line(error)}); copy it again") from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path}: holds no state dict (name -> tensor); save it with torch.save(model.state_dict(), …)")
    return found


def torchvision_state(cfg: TorchModel) -> State:
    """torchvision's default ImageNet weights, from its cache or the network. Raises RecipeError, DataError."""
    from torchvision.models import get_model_weights

    if cfg.form != "imagenet" or cfg.width != 1:
        raise RecipeError(f"model.weights: torchvision has weights for form imagenet and width 1 only, found form "
                          f"{cfg.form} and width {cfg.width:g}; set form: imagenet and width: 1, or name a file")
    try:
        weights = get_model_weights(cfg.arch).DEFAULT  # type: ignore[attr-defined]
    except ValueError:
        raise RecipeError(f"model.weights: torchvision has no network {cfg.arch}; name a file") from None
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise DataError(f"model.weights: torchvision's {cfg.arch} could not be downloaded from {weights.url} ({error})"
                        "; fetch that file where there is a network, and name it in model.weights") from error


def replace_head(model: nn.Module, state: State, num_classes: int) -> State:
    """The state with the model's own, fresh last layer where the class counts differ."""
    own = model.state_dict()
    head = [key for key in state if key in own and _other_classes(state[key], own[key], num_classes)]
    if head:
        log(f"weights: {state[head[0]].shape[0]} classes there, {num_classes} here; {' and '.join(head)} start afresh")
    return {**state, **{key: own[key] for key in head}}


def check_state(model: nn.Module, state: State, place: str) -> None:
    """Raise TrainError, naming the first difference, if `state` is not for `model`. place: file, for the message."""
    own = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    theirs = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    missing, extra = [k for k in own if k not in theirs], [k for k in theirs if k not in own]
    if missing or extra:
        lack = f"{len(missing)} of its tensors are missing there (first: {missing[0]})" if missing else ""
        surplus = f"{len(extra)} tensors there are unknown to it (first: {extra[0]})" if extra else ""
        found = " and ".join(filter(None, (lack, surplus)))
        raise TrainError(f"{place}: these weights are for another network: {found}; "
                         "check model.arch, model.form and model.width")
    differing = [key for key in own if own[key].shape != theirs[key].shape]
    if not differing:
        return
    first = differing[0]
    last_layer = list(own)[-1].rsplit(".", 1)[0]
    only_last = all(key.rsplit(".", 1)[0] == last_layer for key in differing)
    if only_last and own[first].shape[1:] == theirs[first].shape[1:]:
        raise TrainError(f"{place}: these weights are for {theirs[first].shape[0]} classes, the dataset has "
                         f"{own[first].shape[0]}; use weights trained on this dataset, or another dataset")
    raise TrainError(f"{place}: {first} has shape {tuple(theirs[first].shape)}, the network needs "
                     f"{tuple(own[first].shape)} ({len(differing)} tensors differ); check model.arch, model.form and "
                     "model.width")


def _other_classes(theirs: Tensor, own: Tensor, num_classes: int) -> bool:
    return theirs.shape != own.shape and own.shape[0] == num_classes and theirs.shape[1:] == own.shape[1:]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""A trained network on disk: model.safetensors and architecture.json, never a pickled module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from toolchain.errors import TrainError
from toolchain.files import write_bytes, write_text
from toolchain.models import MODELS, create_model
from toolchain.models.fold import fold_batchnorm
from toolchain.models.weights import check_state
from toolchain.recipe.schema import TorchModel

WEIGHTS, ARCHITECTURE = "model.safetensors", "architecture.json"
FIELDS = ("model", "num_classes", "pruned", "folded")


def save_model(folder: Path, model: nn.Module, architecture: dict[str, Any]) -> None:
    """Write weights and architecture into `folder`, each atomically.

    architecture: {"model": TorchModel as JSON, "num_classes": int, "pruned": pruning history or None, "folded": bool}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(state))
    write_text(folder / ARCHITECTURE, json.dumps({name: architecture[name] for name in FIELDS}, indent=1) + "\n")


def load_architecture(folder: Path) -> dict[str, Any]:
    """What `save_model` wrote beside the weights. Raises TrainError when it is missing or damaged."""
    path = folder / ARCHITECTURE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path}: cannot be read ({error}); restore it, or build this network again") from error
    missing = [name for name in FIELDS if not isinstance(content, dict) or name not in content]
    if missing:
        raise TrainError(f"{path}: has no {', '.join(missing)}; restore it, or build this network again")
    return content


def load_model(folder: Path) -> nn.Module:
    """The network as saved, in eval mode: built anew, pruned and folded as recorded, then its weights loaded.

    Raises TrainError for missing, damaged or unfitting files; RecipeError for a network that only --import knows.
    """
    content = load_architecture(folder)
    try:
        cfg = TorchModel.model_validate(content["model"], context={"architectures": tuple(MODELS)})
    except ValidationError as error:
        problem = error.errors()[0]
        raise TrainError(f"{folder / ARCHITECTURE}: {'.'.join(map(str, problem['loc']))}: "
                         f"{problem['msg'].removeprefix('Value error, ')}; a network "
                         "of your own needs --import again") from None
    model = create_model(cfg.model_copy(update={"weights": None}), content["num_classes"])
    if content["pruned"] is not None:
        from toolchain.prune import replay

        model = replay(model, content["pruned"])
    if content["folded"]:
        model = fold_batchnorm(model)
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path}: is not a whole safetensors file ({error}); restore it, or build this network "
                         "again") from error
    check_state(model, state, str(path))
    model.load_state_dict(state)
    return model.eval()

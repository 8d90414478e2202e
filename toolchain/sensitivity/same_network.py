"""Whether a finished scan is of the network at hand: its layers, and how many weights each has."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from toolchain.errors import RecipeError
from toolchain.prune.groups import trace
from toolchain.prune.zeros import prunable
from toolchain.sensitivity.file import Kind, Sensitivity


def layer_parameters(model: nn.Module, kind: Kind, image_size: int) -> dict[str, int]:
    """Layer -> `parameters` as a scan of `kind` "weights" or "channels" states them; `model` is left as it is.

    image_size: pixels. Raises TrainError when channels cannot be followed.
    """
    weights = {name: weight.numel() for name, weight in prunable(model).items()}
    if kind == "weights":
        return weights
    groups = trace(copy.deepcopy(model), image_size).groups
    return {name: sum(weights[layer] for layer in group.layers) for name, group in groups.items()}


def check_same_network(path: Path, found: Sensitivity, model: nn.Module, image_size: int) -> None:
    """Refuse the scan `found` in `path` when it is of another network than `model`, which may be untrained.

    Raises RecipeError naming file, layer, both values and the fix; TrainError when channels cannot be followed.
    """
    what = "group" if found.kind == "channels" else "layer"
    remedy = f"it is the scan of another network: scan this recipe (toolchain sensitivity RECIPE --of {found.kind})"
    scanned = {layer.name: layer.parameters for layer in found.layers}
    expected = layer_parameters(model, found.kind, image_size)
    if missing := [name for name in expected if name not in scanned]:
        raise RecipeError(f"{path}: layers: found no {what} '{missing[0]}', which this network has ({len(scanned)} "
                          f"found, {len(expected)} expected); {remedy}")
    if unknown := [name for name in scanned if name not in expected]:
        raise RecipeError(f"{path}: layers: found {what} '{unknown[0]}', which this network does not have "
                          f"({len(scanned)} found, {len(expected)} expected); {remedy}")
    for name, parameters in expected.items():
        if scanned[name] != parameters:
            raise RecipeError(f"{path}: {what} {name}: parameters: found {scanned[name]:,}, but this network has "
                              f"{parameters:,} there; {remedy}")

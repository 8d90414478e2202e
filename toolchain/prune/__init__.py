"""Pruning: each method makes a smaller network and a history with which its shapes can be rebuilt before loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolchain.prune.channels import prune_channels, replay_channels
from toolchain.recipe.schema import Prune

if TYPE_CHECKING:
    from torch import nn

PRUNERS = {"channels": prune_channels}
REPLAYS = {"channels": replay_channels}


def prune(model: nn.Module, cfg: Prune, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """A pruned copy of `model` by method `cfg.method`, and its JSON-able history. Raises TrainError."""
    pruned, history = PRUNERS[cfg.method](model, cfg, image_size)
    return pruned, {"method": cfg.method, **history}


def replay(model: nn.Module, history: dict[str, Any]) -> nn.Module:
    """Give a freshly constructed `model` the shapes of the pruned network with this history. Raises TrainError."""
    return REPLAYS[history["method"]](model, history)

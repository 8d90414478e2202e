"""Pruning: each method makes a smaller or sparser network and a JSON-able history of what was done.

With the history, shapes can be rebuilt before weights are loaded. Unstructured methods leave shapes alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from toolchain.errors import TrainError
from toolchain.prune.amounts import Curves
from toolchain.prune.channels import prune_channels
from toolchain.prune.groups import replay_channels
from toolchain.prune.lottery import prune_lottery
from toolchain.prune.magnitude import prune_magnitude
from toolchain.prune.sparse24 import prune_24
from toolchain.prune.zeros import replay_zeros, sparsity
from toolchain.recipe.prune import Prune

# (model, section, image size) -> the pruned copy and its history
SMALLER: dict[str, Callable[..., tuple[nn.Module, dict[str, Any]]]] = {"channels": prune_channels}
# (model, section, round, seed) -> what else the history holds; weights become zero in place
SPARSER: dict[str, Callable[..., dict[str, Any]]] = {
    "magnitude": prune_magnitude, "lottery": prune_lottery, "sparse24": prune_24}


def _replay_low_rank(model: nn.Module, history: dict[str, Any]) -> nn.Module:
    from toolchain.prune.low_rank import replay_low_rank

    return replay_low_rank(model, history)


REPLAYS: dict[str, Callable[[nn.Module, dict[str, Any]], nn.Module]] = {
    **dict.fromkeys(("channels", "greedy", "latency"), replay_channels), "low_rank": _replay_low_rank,
    **dict.fromkeys(SPARSER, replay_zeros)}


def prune(
    model: nn.Module, cfg: Prune, image_size: int, *, number: int = 1, seed: int = 0, curves: Curves | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A pruned copy of `model` by method `cfg.method`, and its JSON-able history. Raises TrainError.

    number: the round, from 1, for methods that prune in rounds; the zeros of `model` are those of the rounds before.
    curves: what the scan of each layer found, for scope: sensitivity.
    """
    if cfg.method in SMALLER:
        pruned, history = SMALLER[cfg.method](model, cfg, image_size)
        return pruned, {"method": cfg.method, **history}
    pruned = copy.deepcopy(model)
    scan = {"curves": curves} if curves is not None else {}
    facts = SPARSER[cfg.method](pruned, cfg, number, seed, **scan)
    return pruned, {"method": cfg.method, **sparsity(pruned), **facts}


def replay(model: nn.Module, history: dict[str, Any]) -> nn.Module:
    """Give a freshly constructed `model` the shapes of the pruned network with this history. Raises TrainError."""
    try:
        return REPLAYS[history["method"]](model, history)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TrainError(f"prune history: it is damaged ({type(error).__name__}: {error}); restore it, or build this "
                         "network again") from error

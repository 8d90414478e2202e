"""Greedy allocation: channels go from the least sensitive layers first, until the network is small enough.

Our reading of a method whose text leaves room: first by what a channel of each layer costs in the whole network, then,
as those costs count the weights between two thinner layers twice, one channel per layer in turn until the true count is
reached. A residual or depthwise group counts as one layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from toolchain.errors import RecipeError, TrainError
from toolchain.prune.amounts import Curves
from toolchain.prune.groups import remove, trace
from toolchain.prune.saliency import Batches, least, saliencies
from toolchain.prune.sizes import Sizes, sizes_of
from toolchain.recipe.prune import Greedy


def prune_greedy(
    model: nn.Module, cfg: Greedy, image_size: int, curves: Curves, batches: Batches = (), seed: int = 0
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of `model` without at least `cfg.params` of its parameters, and a history that `replay_channels` repeats.

    curves: what the scan of each group found. batches, seed: for saliencies that need images or are
    drawn. Raises TrainError when the target cannot be met (saying what can), RecipeError for another network's scan.
    """
    sizes = sizes_of(model, image_size)
    counts = allocate(sizes, sensitivity_order(list(sizes.units), curves), cfg.params, cfg.cap, cfg.layers)
    scores = saliencies(trace(copy.deepcopy(model), image_size), cfg.saliency, seed, batches)
    smaller, steps = remove(model, image_size, {name: least(scores[name], count) for name, count in counts.items()})
    found, expected = sum(parameter.numel() for parameter in smaller.parameters()), sizes.parameters(counts)
    if found != expected:
        raise TrainError(f"prune: the network has {found:,} parameters after pruning, and {expected:,} were expected; "
                         "its layers do not shrink as a sum of channels: use prune.method: channels")
    return smaller, {"method": cfg.method, "image_size": image_size, "steps": steps}


def check_greedy(model: nn.Module, cfg: Greedy, image_size: int) -> None:
    """Refuse a `cfg.params` that no order of the layers can reach, before anything is trained or scanned.

    model: trained or not; it is left as it is. image_size: pixels. Raises TrainError with the largest share.
    """
    sizes = sizes_of(model, image_size)
    most, whole, groups = most_removable(sizes, cfg.cap, cfg.layers), sizes.parameters({}), len(sizes.units)
    if most < cfg.params * whole:
        raise _unreachable(cfg.params, most / whole, cfg.cap, min(cfg.layers or groups, groups), groups)


def most_removable(sizes: Sizes, cap: float, layers: int | None = None) -> int:
    """How many parameters go when each group loses `cap` of its units, or each of the best `layers` groups.

    Exact for all groups and for one. In between an upper bound: what groups take off alone is added up, as if no weight
    lay between two of them.
    """
    most, whole = _most(sizes, list(sizes.units), cap), sizes.parameters({})
    everything = whole - sizes.parameters(most)
    alone = sorted((whole - sizes.parameters({name: count}) for name, count in most.items()), reverse=True)
    return everything if layers is None else min(everything, sum(alone[:layers]))


def sensitivity_order(groups: Sequence[str], curves: Curves) -> list[str]:
    """`groups` by rising mean drop over their points; of equal ones the first in order of definition.

    Raises RecipeError when `curves` are of other groups.
    """
    if odd := sorted(set(groups) ^ set(curves)):
        raise RecipeError(f"prune.scan.file: it scans the groups {', '.join(list(curves)[:3])}, …, and {odd[0]} is a "
                          "group of only one of it and this network; scan this recipe's network again")
    return sorted(groups, key=lambda name: sum(drop for _, drop in curves[name]) / len(curves[name]))


def allocate(sizes: Sizes, order: Sequence[str], share: float, cap: float, layers: int | None = None) -> dict[str, int]:
    """Group -> units to remove, so that at least `share` of all parameters go.

    order: groups, least sensitive first; `layers`: only so many of them. No group keeps less than
    ceil((1 - cap) * units). Raises TrainError with the largest share that can be reached.
    """
    chosen = order[:layers]
    most = _most(sizes, chosen, cap)
    whole = sizes.parameters({})

    def reached(removed: Mapping[str, int]) -> bool:
        return whole - sizes.parameters(removed) >= share * whole

    if not reached(most):
        raise _unreachable(share, 1 - sizes.parameters(most) / whole, cap, len(chosen), len(order))
    removed, left = dict.fromkeys(chosen, 0), share * whole
    for name in chosen:  # each by its cost in the whole network, as if the others were not thinner
        cost = whole - sizes.parameters({name: 1}) if most[name] else 0
        if cost:
            removed[name] = min(most[name], math.ceil(left / cost))
            left -= removed[name] * cost
        if left <= 0:
            break
    while not reached(removed):
        for name in chosen:
            if removed[name] < most[name]:
                removed[name] += 1
                if reached(removed):
                    break
    return removed


def _most(sizes: Sizes, groups: Sequence[str], cap: float) -> dict[str, int]:
    """Group -> units that it may lose: `cap` of them, and never the last one."""
    return {name: min(math.floor(round(cap * sizes.units[name], 9)), sizes.units[name] - 1) for name in groups}


def _unreachable(share: float, largest: float, cap: float, layers: int, groups: int) -> TrainError:
    remedies = "params, a larger cap or more layers" if layers < groups else "params or a larger cap"
    return TrainError(f"prune.params: found {share:g}, but prune.cap {cap:g} on {layers} of {groups} groups of "
                      f"channels removes at most {math.floor(largest * 1e4) / 1e4:g} of the parameters; use a smaller "
                      f"{remedies}")

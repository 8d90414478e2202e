"""Which channels go so that an engine becomes faster: widths chosen where they buy predicted latency.

The prediction adds up a table of what each layer costs at each width on the very engine (as NetAdapt does, Yang et al.
2018, arXiv:1804.03230); whether it came true is measured elsewhere, on whole networks. A width is a group's number of
kept units (groups.py): Widths = {group: units}.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, log

import numpy as np
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from toolchain.prune.groups import trace

Widths = dict[str, int]
DEPTHWISE = tp.prune_depthwise_conv_out_channels  # its channels are inputs and outputs at once
READING = (tp.prune_conv_in_channels, tp.prune_linear_in_channels, DEPTHWISE)
GIVING = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, DEPTHWISE)
AHEAD = 6  # widths below the present one that are looked at: an engine's steps may be that many multiples deep
NOTHING = 1e-9  # share of the whole below which a step saves no time


@dataclass(frozen=True)
class Ties:
    """How a layer's channels follow the groups: channels(kept) = full - sum of per_unit[group] * removed units."""

    inputs: int
    outputs: int
    per_input: Mapping[str, int]
    per_output: Mapping[str, int]

    def channels(self, removed: Mapping[str, int]) -> tuple[int, int]:
        """(input, output) channels when removed[group] units are gone."""
        return (self.inputs - sum(n * removed.get(group, 0) for group, n in self.per_input.items()),
                self.outputs - sum(n * removed.get(group, 0) for group, n in self.per_output.items()))


def ties(model: nn.Module, image_size: int) -> tuple[dict[str, Ties], Widths]:
    """How every Conv2d and Linear of `model` follows its groups; and the units of every group.

    Raises TrainError where channels cannot be followed.
    """
    traced = trace(copy.deepcopy(model), image_size)
    tied: dict[tuple[str, str, bool], set[int]] = {}  # (layer, group, its inputs) -> its channels that are tied
    for group, found in traced.tied.items():
        for dep, indices in found:
            name = traced.names.get(dep.target.module)
            for inputs, handlers in ((True, READING), (False, GIVING)):
                if name is not None and dep.handler in handlers:
                    tied.setdefault((name, group, inputs), set()).update(indices)

    def per_unit(layer: str, inputs: bool) -> dict[str, int]:
        return {group: len(tied[layer, group, inputs]) // of.units for group, of in traced.groups.items()
                if (layer, group, inputs) in tied}

    layers = {name: Ties(*full, per_unit(name, True), per_unit(name, False))
              for name, full in _channels(traced.model).items()}
    return layers, {name: group.units for name, group in traced.groups.items()}


def _channels(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(input, output) channels or features of every Conv2d and Linear."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            found[name] = (layer.in_channels, layer.out_channels)
        elif isinstance(layer, nn.Linear):
            found[name] = (layer.in_features, layer.out_features)
    return found


def axis(full: int, least: int, step: int, most: int) -> list[int]:
    """Rising widths to measure: `full` and the multiples of `step` from `least` on, thinned evenly to `most`."""
    values = sorted({full, *range(step * ceil(least / step), full, step)})
    chosen = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[at] for at in chosen]


def least_units(units: int, cap: float, round_to: int) -> int:
    """The fewest units a group may keep: a multiple of `round_to`, at least (1 - cap) * units; all where none fits."""
    least = round_to * max(1, ceil((1 - cap) * units / round_to - 1e-9))
    return min(least, units)


@dataclass(frozen=True)
class Surface:
    """Milliseconds of one layer over its channels, from measured points.

    points: (inputs, outputs) -> ms: along each axis where the other has its full width, and on the grid of `coarse`
    (inputs, outputs), rising. In between: the product of the two axes, each interpolated linearly, times the grid's
    correction of that product, interpolated bilinearly. A single axis (depthwise, fixed inputs) needs no grid.
    """

    points: Mapping[tuple[int, int], float]
    coarse: tuple[Sequence[int], Sequence[int]]

    def at(self, inputs: int, outputs: int) -> float:
        """Milliseconds; beyond the measured range those of its end."""
        full = max(i for i, _ in self.points), max(o for _, o in self.points)
        along_in = _line({i: ms for (i, o), ms in self.points.items() if o == full[1]})
        along_out = _line({o: ms for (i, o), ms in self.points.items() if i == full[0]})
        whole = self.points[full]

        def product(i: float, o: float) -> float:
            return float(np.interp(i, *along_in) * np.interp(o, *along_out)) / whole

        corrections = np.array([[self.points[i, o] / product(i, o) for o in self.coarse[1]] for i in self.coarse[0]])
        return product(inputs, outputs) * _bilinear(self.coarse, corrections, inputs, outputs)


def _line(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    rising = sorted(values)
    return rising, [values[width] for width in rising]


def _bilinear(axes: tuple[Sequence[int], Sequence[int]], values: NDArray[np.float64], i: float, o: float) -> float:
    """Linear between the rows of `values`, each linear between its columns; beyond the grid its border's value."""
    rows = [float(np.interp(o, axes[1], row)) for row in values]
    return float(np.interp(i, axes[0], rows))


class Predictor:
    """Milliseconds of a network at any widths: scale * (sum of its layers) + base.

    layers: name -> ties and surface. full: units of every group. scale, base (ms): from `calibrated`.
    """

    def __init__(
        self, layers: Mapping[str, tuple[Ties, Callable[[int, int], float]]], full: Widths, scale: float = 1.0,
        base: float = 0.0,
    ) -> None:
        self.layers, self.full, self.scale, self.base = layers, full, scale, base
        self._of = {group: [at for at, (tied, _) in layers.items()
                            if group in tied.per_input or group in tied.per_output] for group in full}
        self._layer_ms = lru_cache(maxsize=None)(lambda at, i, o: float(layers[at][1](i, o)))

    def layer_ms(self, at: str, kept: Widths) -> float:
        """Milliseconds of one layer."""
        return float(self._layer_ms(at, *self.layers[at][0].channels(self._removed(kept))))

    def sum_ms(self, kept: Widths) -> float:
        """Milliseconds of all layers together, as each was timed alone."""
        return sum(self.layer_ms(at, kept) for at in self.layers)

    def ms(self, kept: Widths) -> float:
        """Milliseconds of the whole network."""
        return self.scale * self.sum_ms(kept) + self.base

    def saved_ms(self, kept: Widths, group: str, units: int) -> float:
        """Milliseconds by which the network gets faster when `group` keeps only `units`."""
        smaller = {**kept, group: units}
        return self.scale * sum(self.layer_ms(at, kept) - self.layer_ms(at, smaller) for at in self._of[group])

    def _removed(self, kept: Widths) -> dict[str, int]:
        return {group: units - kept[group] for group, units in self.full.items()}


def calibrated(features: Sequence[Sequence[float]], measured: Sequence[float]) -> list[float]:
    """Costs, one per feature and a constant, whose weighted sum is closest to `measured` (ms); none is negative.

    features: of several networks, the layers' own ms first. The error that counts is relative, and squared. With no
    more networks than unknowns only the first feature is scaled.
    """
    rows = np.column_stack([np.asarray(features, float), np.ones(len(measured))]) / np.asarray(measured)[:, None]
    used = list(range(rows.shape[1])) if len(rows) > rows.shape[1] else [0]
    while True:
        found = np.linalg.lstsq(rows[:, used], np.ones(len(rows)), rcond=None)[0]
        if len(used) == 1 or found.min() >= 0:
            return [float(found[used.index(at)]) if at in used else 0.0 for at in range(rows.shape[1])]
        others = [at for at in range(len(used)) if used[at] != 0]  # the layers' own time always counts
        used.pop(min(others, key=lambda at: found[at]))


def left_over(scores: Tensor) -> list[float]:
    """Share of a group's saliency that is left when 0, 1, …, all units are kept, the most salient first."""
    rising = scores.double().sort(descending=True).values.clamp(min=0)
    total = float(rising.sum())
    shares = (rising.cumsum(0) / total).tolist() if total > 0 else [n / len(rising) for n in range(1, len(rising) + 1)]
    return [0.0, *shares]


def propose(
    kept: Widths, target_ms: float, predictor: Predictor, left: Mapping[str, Sequence[float]],
    least: Mapping[str, int], round_to: int, banned: Collection[str] = (), anchor: float = 1.0,
) -> Widths:
    """Widths from `kept` downwards, until `anchor` * prediction <= `target_ms` or nothing more can be had.

    Each step takes the group and width (a multiple of `round_to`, at least least[group]) that loses the least for the
    predicted time it saves. The loss is -log of the share of the group's saliency that remains, so that halving what is
    left costs the same whenever it happens. A width that saves nothing is taken only on the way to one that does.
    """
    kept, nothing = dict(kept), NOTHING * predictor.ms(kept)
    while anchor * predictor.ms(kept) > target_ms:
        best = (inf, "", 0)
        for group in kept:
            for units in _below(kept[group], least[group], round_to) if group not in banned else ():
                saved = predictor.saved_ms(kept, group, units)
                remains = left[group][units] / left[group][kept[group]] if left[group][kept[group]] > 0 else 1.0
                if saved > nothing and remains > 0:
                    best = min(best, (-log(remains) / saved, group, units))
        if not best[1]:
            return kept
        kept[best[1]] = best[2]
    return kept


def _below(units: int, least: int, round_to: int) -> list[int]:
    first = (units - 1) // round_to * round_to
    return [width for width in range(first, first - AHEAD * round_to, -round_to) if width >= least]

"""Low-rank factorization of a network: which layers, at which ranks, and the surgery, from a record that is data.

A rank is chosen by the share of the layer's energy (its squared singular values) that it keeps, by its share of the
full rank, or for the network as a whole, so that a share of its parameters goes where it costs least energy.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.errors import TrainError
from toolchain.prune.factors import chain, energies, factorized, scheme_of, weights_at
from toolchain.recipe.prune import LowRank

DEFAULT_ENERGY = 0.95
Factors = dict[str, Any]  # {"scheme", "ranks": [..], "shape": of the layer's weight}, as JSON


@dataclass(frozen=True)
class Spectrum:
    """What the choice of a layer's ranks rests on; energies: of each unfolding, as factors.energies gives them."""

    scheme: str
    shape: tuple[int, ...]
    energies: Sequence[Tensor]

    @property
    def full(self) -> list[int]:
        """The ranks at which nothing is lost."""
        return [len(energy) for energy in self.energies]

    def kept(self, ranks: Sequence[int]) -> float:
        """Least share of the energy that is left at these ranks, 0 to 1; tucker2's losses add up at most."""
        return 1 - sum(1 - float(energy[rank - 1]) for energy, rank in zip(self.energies, ranks, strict=True))

    def saved(self, ranks: Sequence[int]) -> int:
        """Weights fewer than the layer has; negative where the chain has more."""
        return prod(self.shape) - weights_at(self.shape, self.scheme, ranks)


def spectra(model: nn.Module, scheme: str, ran: Collection[str]) -> dict[str, Spectrum]:
    """The spectrum of every layer among `ran` that can be factorized. Raises TrainError where there is none."""
    found = {}
    for name, layer in model.named_modules():
        own = scheme_of(layer, scheme)
        if own is None or name not in ran:
            continue
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        try:
            found[name] = Spectrum(own, tuple(layer.weight.shape), energies(layer, own))
        except torch.linalg.LinAlgError as error:
            raise TrainError(f"prune: the weights of {name} have no singular values ({error}); they are not finite, so "
                             "train the network again at a lower learning rate") from None
    if not found:
        raise TrainError("prune: low_rank found no plain Conv2d or Linear layer in the network (grouped ones stay); "
                         "use prune.method: channels")
    return found


def choose(known: Mapping[str, Spectrum], cfg: LowRank, parameters: int) -> dict[str, Factors]:
    """The layers that have fewer weights as a chain, with their ranks, as `cfg` asks.

    parameters: of the whole network, for cfg.params. Ranks are rounded up to a multiple of cfg.round_to. Raises
    TrainError when no layer is worth it, or the parameters cannot go (saying how many can).
    """
    if cfg.params is not None:
        chosen = _in_budget(known, ceil(cfg.params * parameters), parameters, cfg)
    else:
        ranks = {name: _ranks(spectrum, cfg) for name, spectrum in known.items()}
        chosen = {name: found for name, found in ranks.items() if known[name].saved(found) > 0}
        if not chosen:
            raise TrainError(_none_pays(known, ranks, cfg))
    return {name: {"scheme": known[name].scheme, "ranks": ranks, "shape": list(known[name].shape)}
            for name, ranks in chosen.items()}


def low_rank(model: nn.Module, layers: Mapping[str, Factors], image_size: int) -> nn.Module:
    """A copy of `model` with each of `layers` as the chain that comes nearest to it.

    Raises TrainError when the forward pass reads more of such a layer than its outputs.
    """
    thinner = copy.deepcopy(model)
    for name, found in layers.items():
        layer = thinner.get_submodule(name)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        _replace(thinner, name, factorized(layer, found["scheme"], found["ranks"]))
    try:
        input_sizes(thinner, image_size)
    except Exception as error:  # a network's own forward may raise anything
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise TrainError(f"prune: the network does not run with its layers replaced ({type(error).__name__}: {reason});"
                         " its forward must only call them; use prune.method: channels") from error
    return thinner


def replay_low_rank(model: nn.Module, history: Mapping[str, Any]) -> nn.Module:
    """Give a freshly constructed `model` the layers of the factorized one, whose weights can then be loaded.

    history: {"layers": {name: Factors}}. Raises TrainError when it does not belong to this architecture.
    """
    modules = dict(model.named_modules())
    for name, found in history["layers"].items():
        layer = modules.get(name)
        shape = list(layer.weight.shape) if isinstance(layer, (nn.Conv2d, nn.Linear)) else None
        if shape != found["shape"] or scheme_of(modules[name], found["scheme"]) != found["scheme"]:
            raise TrainError(f"prune history: it was written for another network; layer {name} is a plain Conv2d or "
                             f"Linear with weights {found['shape']} there, and {shape or 'not one'} here")
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        _replace(model, name, chain(layer, found["scheme"], found["ranks"]))
    return model


def input_sizes(model: nn.Module, image_size: int) -> dict[str, tuple[int, ...]]:
    """Shape, without the batch, of what each Conv2d and Linear layer reads when it first runs, by its name.

    image_size: of the square RGB images it takes, pixels. The model, in eval mode meanwhile, stays as it is.
    """
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            sizes.setdefault(name, tuple(given[0].shape[1:]))

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in model.named_modules()
             if isinstance(layer, (nn.Conv2d, nn.Linear))]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    return sizes


def _ranks(spectrum: Spectrum, cfg: LowRank) -> list[int]:
    if cfg.rank is not None:
        return _fitting(spectrum, [max(1, round(cfg.rank * full)) for full in spectrum.full], cfg.round_to)
    share = cfg.energy or DEFAULT_ENERGY
    return _fitting(spectrum, [_rank_of(energy, share) for energy in spectrum.energies], cfg.round_to)


def _rank_of(energy: Tensor, share: float) -> int:
    """The smallest rank that keeps at least this share."""
    return int((energy < share).sum()) + 1


def _fitting(spectrum: Spectrum, ranks: Sequence[int], round_to: int) -> list[int]:
    """Rounded up to a multiple, and no larger than they can be."""
    fitting = [min(full, ceil(rank / round_to) * round_to) for full, rank in zip(spectrum.full, ranks, strict=True)]
    if spectrum.scheme == "tucker2":  # a side has no more than the other one's times k * k
        first, last = fitting
        kernel = prod(spectrum.shape[2:])
        fitting = [min(first, last * kernel), min(last, first * kernel)]
    return fitting


Point = tuple[int, float, list[int]]  # (weights saved, share of the energy lost, ranks) of one layer


def _points(spectrum: Spectrum, round_to: int) -> list[Point]:
    """All that a layer can become with fewer weights, by what it saves; tucker2's two ranks keep equal energy."""
    points = {}
    full = spectrum.full[-1]
    for rank in sorted({full, *range(round_to, full, round_to)}):
        share = float(spectrum.energies[-1][rank - 1])
        ranks = _fitting(spectrum, [_rank_of(energy, share) for energy in spectrum.energies[:-1]] + [rank], round_to)
        points[spectrum.saved(ranks)] = (spectrum.saved(ranks), 1 - spectrum.kept(ranks), ranks)
    return [points[saved] for saved in sorted(points) if saved > 0]


def _in_budget(known: Mapping[str, Spectrum], goal: int, parameters: int, cfg: LowRank) -> dict[str, list[int]]:
    """Ranks that save at least `goal` weights, where each step loses the least energy for a weight.

    A layer's steps go along the lower convex hull of its points, so that the first one, which alone pays for having
    two layers, does not hide cheap ones behind it. Of the layer that comes last, the point that just suffices is taken.
    """
    points = {name: _points(spectrum, cfg.round_to) for name, spectrum in known.items()}
    if (most := sum(found[-1][0] for found in points.values() if found)) < goal:
        raise TrainError(f"prune.params: found {goal / parameters:.3g}, but low_rank (scheme {cfg.scheme}, round_to "
                         f"{cfg.round_to}) can remove {most / parameters:.3g} of the {parameters} parameters at most, "
                         f"in {sum(map(bool, points.values()))} layers; use a smaller share")
    steps = sorted((_slope(before, after), name, after) for name, found in points.items()
                   for before, after in _pairs(_hull(found)))
    at: dict[str, Point] = {}
    for _, name, point in steps:
        others = sum(found[0] for other, found in at.items() if other != name)
        at[name] = point
        if others + point[0] >= goal:
            at[name] = next(found for found in points[name] if others + found[0] >= goal)
            break
    return {name: at[name][2] for name in known if name in at}


def _hull(points: Sequence[Point]) -> list[Point]:
    hull: list[Point] = [(0, 0.0, [])]
    for point in points:
        while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _pairs(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(points, points[1:], strict=False))


def _slope(before: Point, after: Point) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])


def _none_pays(known: Mapping[str, Spectrum], ranks: Mapping[str, list[int]], cfg: LowRank) -> str:
    nearest = max(known, key=lambda name: known[name].saved(ranks[name]) / prod(known[name].shape))
    spectrum, found = known[nearest], ranks[nearest]
    asked = f"rank {cfg.rank:g}" if cfg.rank is not None else f"energy {cfg.energy or DEFAULT_ENERGY:g}"
    return (f"prune: {asked} leaves no layer with fewer weights: nearest is {nearest}, with "
            f"{weights_at(spectrum.shape, spectrum.scheme, found)} at rank {' and '.join(map(str, found))} in place of "
            f"{prod(spectrum.shape)}; use a smaller prune.{'rank' if cfg.rank is not None else 'energy'}, or "
            "prune.method: channels")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

"""A network in PyTorch, harmed one layer at a time: its smallest weights zero, or its least salient channels gone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from toolchain.models import import_models
from toolchain.models.store import load_model
from toolchain.prune.cost import cost
from toolchain.prune.greedy import most_removable
from toolchain.prune.groups import remove, trace
from toolchain.prune.magnitude import smallest
from toolchain.prune.saliency import least, saliencies
from toolchain.prune.sizes import sizes_of
from toolchain.prune.zeros import prunable, set_zero
from toolchain.recipe.prune import Greedy
from toolchain.sensitivity.images import Images
from toolchain.sensitivity.scan import Facts, Logits, Network, Setting

SALIENCY = "l2"  # by which a scan ranks channels, whatever the method that reads it ranks by


def open_weights(student: Path, images: Path, imports: Sequence[Path] = ()) -> Network:
    """The network saved in `student`, whose layers lose single weights. imports: files with the user's own networks."""
    return Weights(_loaded(student, imports), Images(images))


def open_channels(student: Path, images: Path, imports: Sequence[Path] = ()) -> Network:
    """The network saved in `student`, whose groups lose channels. Raises TrainError when it cannot be traced."""
    return Channels(_loaded(student, imports), Images(images))


class Weights:
    """Of one Conv2d or Linear layer, round(ratio * weights) become zero, the smallest magnitudes first."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        self.model, self.images, self.labels = _placed(model), images, images.labels
        self.shared = _device().type != "cpu"

    def facts(self) -> list[Facts]:
        """Every layer with weights that can be pruned."""
        macs = cost(self.model, self.images.preprocess.image_size).layers
        return [Facts(name, weight.numel(), macs[name]) for name, weight in prunable(self.model).items()]

    def removable(self) -> None:
        """No channels go."""

    def baseline(self) -> Logits:
        """Logits (n, K) of all images."""
        return _logits(self.model, self.images)

    def harmed(self, layer: str, setting: Setting) -> Logits:
        """Logits (n, K); the layer's weights are put back afterwards, bit for bit."""
        weight = prunable(self.model)[layer]
        before = weight.detach().clone()
        set_zero(self.model, {layer: smallest(before.abs(), round(float(setting) * before.numel()))})
        try:
            return _logits(self.model, self.images)
        finally:
            with torch.no_grad():
                weight.copy_(before)


class Channels:
    """Of one group, round(ratio * units) channels are removed, the least salient first; one always stays.

    The smaller network answers: that is what removing means, whatever is tied to the channels, and quicker than zeros.
    """

    def __init__(self, model: nn.Module, images: Images) -> None:
        self.model, self.images, self.labels = model.eval(), images, images.labels
        self.shared = _device().type != "cpu"
        self.size = images.preprocess.image_size
        self.traced = trace(copy.deepcopy(model), self.size)
        self.scores = saliencies(self.traced, SALIENCY)

    def facts(self) -> list[Facts]:
        """Every group of channels; its weights and macs are those of the layers whose outputs shrink with it."""
        weights, macs = prunable(self.model), cost(self.model, self.size).layers
        return [Facts(name, sum(weights[layer].numel() for layer in group.layers),
                      sum(macs[layer] for layer in group.layers)) for name, group in self.traced.groups.items()]

    def removable(self) -> float:
        """What greedy allocation can take off at its default cap, as a share of all parameters."""
        sizes = sizes_of(self.model, self.size)
        return most_removable(sizes, Greedy(method="greedy").cap) / sizes.parameters({})

    def baseline(self) -> Logits:
        """Logits (n, K) of all images."""
        return _logits(_placed(copy.deepcopy(self.model)), self.images)

    def harmed(self, layer: str, setting: Setting) -> Logits:
        """Logits (n, K) of a copy without the group's least salient channels."""
        units = len(self.scores[layer])
        count = min(round(float(setting) * units), units - 1)
        smaller, _ = remove(self.model, self.size, {layer: least(self.scores[layer], count)})
        return _logits(_placed(smaller), self.images)


def _loaded(student: Path, imports: Sequence[Path]) -> nn.Module:
    for file in imports:
        import_models(file)
    return load_model(student)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _placed(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False).to(_device())


def _logits(model: nn.Module, images: Images) -> Logits:
    """(n, K) float32, computed on one thread on a CPU."""
    device, threads = next(model.parameters()).device, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            parts = [model(torch.from_numpy(batch).to(device)).float().cpu().numpy() for batch in images.batches()]
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(parts)

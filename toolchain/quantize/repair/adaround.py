"""AdaRound (Nagel et al. 2020, arXiv:2004.10568): learn for each weight whether to round up or down.

Wq = s clip(floor(W / s) + h(V), low, high), h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1); V minimises the squared error of
the layer's output plus sum(1 - |2 h - 1|^b), b falling from 20 to 2, which drives every h to 0 or 1 (eq. 21 to 24).
Layer by layer: the output wanted is that of the float network, the input is that of the network rounded so far.

Beyond the paper: at the end single weights are flipped, the best one of each output channel at a time, while that
lowers its error. With 0 iterations this alone, from nearest rounding, gets most of the gain in a fraction of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from toolchain import console
from toolchain.graph.layers import Layer, layers
from toolchain.quantize.repair.grid import Grid
from toolchain.quantize.repair.network import Network, Tap, copy_of, each_image, owned, store
from toolchain.quantize.repair.patches import as_rows, from_rows, patches, positions, unreadable

if TYPE_CHECKING:
    from toolchain.recipe.repair import AdaRound

ZETA, GAMMA = 1.1, -0.1  # stretch of the sigmoid, so that h reaches 0 and 1
START, END, WARM = 20.0, 2.0, 0.2  # b, and the share of the steps before h is driven anywhere
WEIGHT = 30.0  # of that drive; the output's error is counted in units of nearest rounding's error per weight
RATE, BATCH = 0.1, 256  # of 0.01 to 0.1, and weights of 0.01 to 100, these left the least error in few steps
GRAM_VALUES = 2**25  # no flips where products of all inputs with each other take more than 256 MiB as float64
SAMPLE_VALUES = 2**26  # sampled inputs of one layer: 256 MiB as float32
CHUNK_WEIGHTS = 2**22  # output channels are learned apart, so many weights at once


def repair(network: Network, cfg: AdaRound) -> str:
    """Put the weight of every quantized layer of `network` on its grid, in place. Returns what was done."""
    reference, gains, left = copy_of(network.model), list[float](), list[str]()
    originals = {layer.node.outputs[0].name: layer for layer in layers(reference.graph)}
    chosen = network.quantized()
    with console.bar("adaround", len(chosen)) as progress:
        for number, layer in enumerate(chosen):
            reason = unreadable(layer) if owned(layer) else "its weight is shared"
            if reason is None and layer.array.any():
                grid, twin = network.grid(layer), originals[layer.node.outputs[0].name]
                inputs, wanted = _samples(network, reference, layer, twin, cfg, number)
                rounded, gain = round_layer(layer, grid, inputs, wanted, cfg.iterations, network.seed + number)
                _settle(network, layer, grid, rounded)
                gains.append(gain)
            elif reason is not None:
                left.append(f"{layer.name} ({reason})")
            progress.advance()
    less = 100 * (1 - np.mean(gains)) if gains else 0.0
    said = f"{len(gains)} layers; squared error of their outputs {less:.0f} % below nearest rounding's"
    return f"{said}; left alone: {', '.join(left)}" if left else said


def round_layer(layer: Layer, grid: Grid, inputs: np.ndarray, wanted: np.ndarray, iterations: int, seed: int
                ) -> tuple[np.ndarray, float]:
    """Learn the rounding of one layer: its weight on the grid (float32), and its squared error / nearest rounding's.

    inputs: float32 (groups, rows, inputs of each output); wanted: (groups, rows, outputs), without bias. Each output
    channel keeps nearest rounding where learning has not lowered its error on these rows: the ratio is at most 1.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratio, x = as_rows(layer, layer.array) / as_rows(layer, grid.scale), torch.from_numpy(inputs).to(device)
    arrays = (ratio, as_rows(layer, grid.scale), as_rows(layer, grid.pinned))
    generator, ends = torch.Generator().manual_seed(seed), (grid.low, grid.high)
    up, error, before = np.zeros(ratio.shape, bool), 0.0, 0.0
    gram = _gram(x)
    step = max(1, CHUNK_WEIGHTS // (ratio.shape[0] * ratio.shape[2]))
    for start in range(0, ratio.shape[1], step):
        part = slice(start, start + step)
        r, scale, pinned = (torch.from_numpy(np.array(a[:, part])).to(device) for a in arrays)
        choice = Choice(r.floor(), r - r.floor(), scale, pinned, ends)
        y = torch.from_numpy(np.array(wanted[:, :, part])).to(device)
        learned = _learn(x, y, choice, iterations, generator)
        mine, nearest = _errors(x, y, choice.weight(learned)), _errors(x, y, choice.weight(choice.nearest))
        learned = torch.where((mine < nearest)[:, :, None], learned, choice.nearest)
        if gram is not None:
            _flip(gram, torch.bmm(y.double().transpose(1, 2), x.double()), choice, learned)
        up[:, part] = learned.cpu().numpy()
        error += float(_errors(x, y, choice.weight(learned)).sum())
        before += float(nearest.sum())
    codes = np.floor(ratio) + up
    return grid.values(from_rows(layer, codes)), error / before if before else 1.0


@dataclass(frozen=True)
class Choice:
    """Up or down for each weight of some output channels. All (groups, outputs, inputs); rest: how far above floor."""

    floor: Tensor
    rest: Tensor
    scale: Tensor
    pinned: Tensor
    ends: tuple[int, int]

    @property
    def nearest(self) -> Tensor:
        """True where rounding half to even goes up."""
        return (self.floor + self.rest).round() > self.floor

    def weight(self, up: Tensor) -> Tensor:
        """The weights for `up`: true, false, or anything between."""
        return (self.floor + up).clamp(*self.ends) * self.scale


def _learn(x: Tensor, y: Tensor, choice: Choice, iterations: int, generator: torch.Generator) -> Tensor:
    """Which weights go up, after `iterations` steps of Adam on batches of rows."""
    rest, nearest = choice.rest.clamp(1e-4, 1 - 1e-4), choice.nearest
    v = torch.log((rest - GAMMA) / (ZETA - rest)).requires_grad_()  # h(v) = rest
    optimizer = torch.optim.Adam([v], lr=RATE)
    unit = _errors(x, y, choice.weight(nearest)).sum() / (x.shape[1] * rest.numel())
    if not unit > 0:
        return nearest
    for iteration in range(iterations):
        batch = torch.randint(x.shape[1], (min(BATCH, x.shape[1]),), generator=generator).to(x.device)
        rounded = choice.weight(torch.where(choice.pinned, nearest.float(), _hard(v)))
        missed = torch.bmm(x[:, batch], rounded.transpose(1, 2)) - y[:, batch]
        loss = missed.square().sum(dim=(0, 2)).mean() / unit
        done = (iteration / iterations - WARM) / (1 - WARM)
        if done >= 0:
            power = END + (START - END) * (1 - done)
            loss = loss + WEIGHT * (1 - (2 * _hard(v) - 1).abs().pow(power)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return torch.where(choice.pinned, nearest, _hard(v) >= 0.5)


def _gram(x: Tensor) -> Tensor | None:
    """(groups, inputs, inputs) float64 sums of products over all rows; None where that is too large to hold."""
    if x.shape[0] * x.shape[2] ** 2 > GRAM_VALUES:
        return None
    total = torch.zeros(x.shape[0], x.shape[2], x.shape[2], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], BATCH):
        rows = x[:, start : start + BATCH].double()
        total += torch.bmm(rows.transpose(1, 2), rows)
    return total


def _flip(gram: Tensor, target: Tensor, choice: Choice, up: Tensor) -> None:
    """Change `up` in place: in each output channel the flip that lowers its squared error most, until none does.

    With q the rounded weights, the error is q G q' - 2 q t' + const; changing weight j by d adds 2 d (q G - t)_j +
    d^2 G_jj. gram: G; target: t (groups, outputs, inputs), sums of wanted output times input.
    """
    slope = torch.bmm(choice.weight(up).double(), gram) - target
    own = gram.diagonal(dim1=1, dim2=2)[:, None]
    for _ in range(up.shape[2]):
        change = (choice.weight(~up) - choice.weight(up)).double()
        gain = (2 * change * slope + change.square() * own).masked_fill(choice.pinned, 0.0)
        best, at = gain.min(dim=2, keepdim=True)
        if not (best < 0).any():
            return
        moved = torch.where(best < 0, change.gather(2, at), 0.0)
        rows = gram.gather(1, at.expand(-1, -1, gram.shape[2]))
        slope += moved * rows
        up.scatter_(2, at, up.gather(2, at) ^ (best < 0))


def _hard(v: Tensor) -> Tensor:
    """h(V), the rectified sigmoid."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _errors(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """(groups, outputs) summed squared error over all rows, a batch at a time."""
    total = torch.zeros(weight.shape[:2], dtype=torch.float64, device=x.device)
    for start in range(0, x.shape[1], BATCH):
        missed = torch.bmm(x[:, start : start + BATCH], weight.transpose(1, 2)) - y[:, start : start + BATCH]
        total += missed.double().square().sum(dim=1)
    return total


def _samples(network: Network, reference: ir.Model, layer: Layer, twin: Layer, cfg: AdaRound, number: int
             ) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (groups, rows, inputs) in the network rounded so far, and the float network's outputs for them.

    The same positions of each image in both, drawn without replacement by the network's seed and the layer's number.
    """
    name = layer.input.name or ""
    now = Tap(network, copy_of(network.model), [name])
    then = Tap(network, copy_of(reference), [name])
    weight = as_rows(twin, twin.array).transpose(0, 2, 1)
    rows = min(cfg.rows, max(BATCH, SAMPLE_VALUES // (weight.shape[0] * weight.shape[1])))
    images = min(cfg.images, network.image_count)
    per_image, random = -(-rows // images), np.random.default_rng([network.seed, number])
    inputs, wanted = list[np.ndarray](), list[np.ndarray]()
    for image in islice(each_image(network.images()), images):
        value, original = now.run(image)[name], then.run(image)[name]
        count = positions(layer, value)
        at = np.sort(random.permutation(count)[:per_image])
        inputs.append(patches(layer, value, at))
        wanted.append(patches(twin, original, at) @ weight)
    return np.concatenate(inputs, axis=1), np.concatenate(wanted, axis=1)


def _settle(network: Network, layer: Layer, grid: Grid, rounded: np.ndarray) -> None:
    """Store the rounded weight; with INT8 the grid's amax goes with it, so that it is found again exactly."""
    name = layer.weight.name or ""
    network.learned.add(name)
    if network.target.precision == "int8":
        outputs_first = np.moveaxis(layer.array, layer.axis, 0).reshape(layer.array.shape[layer.axis], -1)
        network.weight_amax.setdefault(name, np.abs(outputs_first).max(axis=1))
    store(layer.weight, rounded)

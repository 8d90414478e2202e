"""How much of a network's own values a narrow format loses: weights, activations and gradients of one training step.

All values are computed in FP32 and then cast, so a loss here is the format's alone. Gradients are linear in the loss:
scaling it multiplies each of them (Micikevicius et al. 2018), which is what a loss scale does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.explain.counts import GRADIENTS, Kind, Losses, Lost

FORMATS: dict[str, torch.dtype] = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
SATURATES_ABOVE = {torch.float8_e4m3fn: 464.0}  # half way to what would come after 448; the cast clips, which is a loss
LARGEST_SCALE = 2.0**40  # a network whose gradients are all zero would ask for any
CHUNK = 1 << 22  # values cast at a time


Visit = Callable[[str, Kind, Tensor], None]


def count(lost: Lost, values: Tensor, kind: torch.dtype, scale: float = 1.0) -> None:
    """Add `values` (any shape) times `scale`, as this format holds them, to what is lost."""
    limit = SATURATES_ABOVE.get(kind, math.inf)
    for some in values.detach().flatten().split(CHUNK):
        known = some[some != 0] * scale
        cast = known.to(kind).float()
        lost.nonzero += known.numel()
        lost.zero += int((cast == 0).sum())
        lost.overflow += int((~cast.isfinite() | (known.abs() > limit)).sum())


def losses(model: nn.Module, pixels: Tensor, labels: Tensor, seed: int = 0) -> Losses:
    """What every format loses in one training step on one batch.

    pixels: (N, 3, S, S) as the network is fed. labels: (N,). The loss is the mean cross-entropy, BatchNorm uses the
    batch's own statistics; the model's buffers change. Two passes: the second knows the largest gradient.
    """
    layers = [name for name, _ in _layers(model)]
    found = Losses(layers, 0.0, {name: defaultdict(Lost) for name in FORMATS},
                   {name: defaultdict(Lost) for name in FORMATS})
    largest = 0.0

    def first(layer: str, kind: Kind, values: Tensor) -> None:
        nonlocal largest
        if kind in GRADIENTS:
            largest = max(largest, float(values.abs().max()))
        for name, dtype in FORMATS.items():
            count(found.plain[name][layer, kind], values, dtype)

    def second(layer: str, kind: Kind, values: Tensor) -> None:
        if kind in GRADIENTS:
            for name, dtype in FORMATS.items():
                count(found.scaled[name][layer, kind], values, dtype, found.scales[name])

    found.loss = step(model, pixels, labels, first, seed)
    found.scales = {name: loss_scale(largest, dtype) for name, dtype in FORMATS.items()}
    step(model, pixels, labels, second, seed)
    return found


def loss_scale(largest: float, dtype: torch.dtype) -> float:
    """The largest power of two that leaves a gradient of magnitude `largest` finite; LARGEST_SCALE at most."""
    if not 0 < largest < math.inf:
        return 1.0
    room = torch.finfo(dtype).max / largest
    return min(2.0 ** math.floor(math.log2(room)), LARGEST_SCALE)


def step(model: nn.Module, pixels: Tensor, labels: Tensor, visit: Visit, seed: int = 0) -> float:
    """One forward and backward pass; visit(layer, kind, values) is shown each tensor of the layers once.

    Returns the loss. seed: for dropout, so that two calls see the same values. The weights stay as they are.
    """
    torch.manual_seed(seed)
    model.train().zero_grad(set_to_none=True)
    with _watched(model, visit):
        loss = F.cross_entropy(model(pixels).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    for name, module in _layers(model):
        visit(name, "weights", module.weight)
        if module.weight.grad is not None:
            visit(name, "weight gradients", module.weight.grad)
    model.zero_grad(set_to_none=True)
    return loss.item()


@contextmanager
def _watched(model: nn.Module, visit: Visit) -> Iterator[None]:
    """Show what each layer puts out, and the gradient that comes back to it."""
    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def seen(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            visit(name, "activations", output)
            if output.requires_grad:
                output.register_hook(lambda gradient: visit(name, "activation gradients", gradient))

        return seen

    handles = [module.register_forward_hook(hook(name)) for name, module in _layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            yield name, module

"""That surgery was right: torch-pruning takes every operator it does not know for an element-wise one.

So the network without its channels is compared with the original in which nothing reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.errors import TrainError

TOLERANCE = 1e-3  # of the largest logit, in float32
# autograd's names, less the ending: what each channel goes through by itself, or torch-pruning follows
FAMILIAR = {
    "AccumulateGrad", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "Add", "Addmm", "Alias", "AvgPool2D", "Cat", "Clamp",
    "ClampMin", "Clone", "ConstantPadNd", "Convolution", "CudnnBatchNorm", "Div", "Elu", "Exp", "Expand", "Gelu",
    "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "Log", "MaxPool2DWithIndices", "Mean", "MkldnnConvolution",
    "Mm", "Mul", "NativeBatchNorm", "NativeDropout", "Neg", "Permute", "Pow", "PreluKernel", "ReflectionPad2D", "Relu",
    "ReshapeAlias", "Rsqrt", "Sigmoid", "Silu", "Slice", "Softplus", "SplitWithSizes", "Split", "Sqrt", "Squeeze",
    "Sub", "Sum", "T", "Tanh", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "UpsampleBilinear2D",
    "UpsampleNearest2D", "View"}
# these follow too, but what is left changes with what is gone, so nothing can be compared
MIXING = {"NativeGroupNorm", "NativeLayerNorm", "Softmax"}


def run(model: nn.Module, image_size: int) -> Tensor:
    """The logits (2, K) of `model` for two fixed images of noise. Raises TrainError naming the layer that fails."""
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    inside: list[str] = []
    hooks: list[Any] = []

    def leave(*_: Any) -> None:
        inside.pop()

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(_enter, inside, name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad():
            logits: Tensor = model(images)
            return logits
    except Exception as error:
        where = f"layer {inside[-1]}" if inside and inside[-1] else "the network's own forward"
        raise TrainError(f"prune: {where} does not run ({_reason(error)}); a size that is written into the code does "
                         "not shrink with the channels: take it from the tensor") from error
    finally:
        for hook in hooks:
            hook.remove()


def _enter(inside: list[str], name: str, *_: Any) -> None:
    inside.append(name)


def unread_weights(layer: nn.Module, inputs: Tensor) -> None:
    """Zero in place the weights by which a Conv2d or Linear reads its `inputs`: int64 (M,), numbers of channels."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    blocks = layer.groups if isinstance(layer, nn.Conv2d) else 1
    with torch.no_grad():  # (blocks, outputs of a block, inputs of a block, ...), a view
        split = weight.view(blocks, weight.shape[0] // blocks, *weight.shape[1:])
        split[inputs // weight.shape[1], :, inputs % weight.shape[1]] = 0


def operators(model: nn.Module, image_size: int) -> set[str]:
    """What the network does to an image, in autograd's names without "Backward0"."""
    found: set[str] = set()
    seen: set[Any] = set()
    with torch.enable_grad():
        waiting = [model(torch.zeros(1, 3, image_size, image_size)).grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(node.name().split("::")[-1].split("Backward")[0])
            waiting += [before for before, _ in node.next_functions]
    return found


def check_same(expected: Tensor, found: Tensor, known: Collection[str]) -> None:
    """Refuse logits that differ: the ties were wrong. known: the network's operators. Raises TrainError naming them."""
    gap = float((expected - found).abs().max())
    if gap <= TOLERANCE * max(float(expected.abs().max()), 1e-6):
        return
    if MIXING.intersection(known) and not _strange(known):
        return
    raise TrainError("prune: the network without its channels computes something else than the one in which nothing "
                     f"reads them (logits differ by {gap:.3g}), so they were not followed through all of its "
                     f"operations; {_suspects(known)}")


@contextmanager
def tracer_errors(where: str, known: Collection[str] = ()) -> Iterator[None]:
    """torch-pruning raises whatever its tracer stumbles over; give it our name, and keep its warnings to ourselves.

    known: the network's operators, if it has been run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TrainError as error:
        if not _strange(known):
            raise
        raise TrainError(f"{error}; {_suspects(known)}") from error.__cause__
    except Exception as error:
        raise TrainError(f"{where}: the network's channels cannot be followed through all of its operations "
                         f"({_reason(error)}); {_suspects(known)}") from error


def _strange(known: Collection[str]) -> list[str]:
    return sorted(name for name in known if name not in FAMILIAR | MIXING)


def _suspects(known: Collection[str]) -> str:
    if strange := _strange(known):
        return f"torch-pruning does not know {', '.join(strange)}: use standard layers instead"
    return "prune supports feed-forward networks of standard layers"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"

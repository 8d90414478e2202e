"""Grad-CAM: which positions of a layer speak for a class (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling

from toolchain.errors import TrainError, nearest

SMALLEST_GRID = 4  # rows and columns; the cosine of two 1x1 maps is 0 or 1 whatever the networks do
POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd)
PASSES_ON = (nn.Identity, dropout._DropoutNd)  # in eval mode they return what they were given


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
    """Maps (N, h, w), at least float32 and >= 0, on the model's device: ReLU(sum_k alpha_k A_k), where A is the output
    (N, C, h, w) of `layer` and alpha_k the spatial mean of d score / d A_k.

    images: (N, 3, S, S). classes: (N,) int64, the class whose logit before softmax is the score. The model computes in
    eval mode and is left as it was: modes, hooks, requires_grad and gradients; frozen models will do.
    Raises TrainError: `layer` is not there, gives no (N, C, h, w) of at least 4x4, or does not reach the logits.
    """
    module = _layer(model, layer)
    first = next(model.parameters(), images)
    seen: list[Tensor] = []

    def tap(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        _check_output(output, layer, images)
        seen[:] = [output.detach().requires_grad_()]  # a layer that runs several times: the last one counts
        torch.set_grad_enabled(True)  # only what follows the layer is recorded
        return seen[0].clone()  # what follows may overwrite its input (in-place ReLU), and must not change A

    handle = module.register_forward_hook(tap)
    try:
        with in_eval_mode(model), torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            logits = model(images.to(first))
            if not seen:
                raise TrainError(f"gradcam: layer '{layer}' does not run when the network does; choose another")
            with torch.enable_grad():
                score = logits.gather(1, classes.to(logits.device)[:, None]).sum()  # images do not mix in eval mode
            gradient = torch.autograd.grad(score, seen[0], allow_unused=True)[0] if score.requires_grad else None
            if gradient is None:
                raise TrainError(f"gradcam: the logits do not depend on layer '{layer}'; choose one on the way to them")
            wide = torch.promote_types(gradient.dtype, torch.float32)
            alpha = gradient.to(wide).mean(dim=(2, 3), keepdim=True)
            return (alpha * seen[0].to(wide)).sum(dim=1).relu().detach()
    finally:
        handle.remove()


def map_shapes(model: nn.Module, image_size: int) -> dict[str, tuple[int, int, int]]:
    """(C, h, w) of every named module with a 4-D output, in the order they finish; pooled maps are left out.

    A pooled map repeats the one before it in fewer positions. One (1, 3, S, S) image of zeros goes through in eval
    mode; the last run of a module counts. The model is left as it was.
    """
    shapes: dict[str, tuple[int, int, int]] = {}
    pooled: list[Tensor] = []  # kept, so that no other tensor takes their place in memory

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            shapes.pop(name, None)
            if not isinstance(output, Tensor) or output.ndim != 4:
                return
            if isinstance(module, POOLS):
                pooled.append(output)
            elif not any(module.children()) and not isinstance(module, PASSES_ON):
                pooled[:] = [one for one in pooled if one is not output]  # in-place ReLU on a pooled map
            if not any(one is output for one in pooled):
                shapes[name] = (output.shape[1], output.shape[2], output.shape[3])

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    first = next(model.parameters(), torch.zeros(()))
    try:
        with in_eval_mode(model), torch.no_grad():
            model(torch.zeros(1, 3, image_size, image_size, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def default_layer(model: nn.Module, image_size: int) -> str:
    """The module that finishes last at the smallest resolution of at least 4x4: ResNet's last stage that is not too
    small, VGG's last ReLU before the pool. Raises TrainError when there is none."""
    fitting = {name: h * w for name, (_, h, w) in map_shapes(model, image_size).items() if min(h, w) >= SMALLEST_GRID}
    if not fitting:
        raise TrainError(f"gradcam: found no layer with maps of at least {SMALLEST_GRID}x{SMALLEST_GRID} on images of "
                         f"{image_size}x{image_size} pixels; use a larger data.image_size")
    smallest = min(fitting.values())
    return [name for name, positions in fitting.items() if positions == smallest][-1]


def check_layer(model: nn.Module, layer: str, image_size: int) -> tuple[int, int]:
    """(h, w) of the maps of `layer`. Raises TrainError when grad_cam would, before anything is computed for long."""
    zeros = torch.zeros(1, 3, image_size, image_size)
    height, width = grad_cam(model, zeros, torch.zeros(1, dtype=torch.int64), layer).shape[1:]
    return height, width


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards each in the mode it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _layer(model: nn.Module, layer: str) -> nn.Module:
    named = {name: module for name, module in model.named_modules() if name}
    if layer not in named:
        raise TrainError(f"gradcam: '{layer}' is not a layer of the network{nearest(layer, named)}; expected the name "
                         f"of one with maps of at least {SMALLEST_GRID}x{SMALLEST_GRID}")
    return named[layer]


def _check_output(output: Any, layer: str, images: Tensor) -> None:
    least = f"{SMALLEST_GRID}x{SMALLEST_GRID}"
    if not isinstance(output, Tensor) or output.ndim != 4:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise TrainError(f"gradcam: layer '{layer}' gives {found}, expected maps (N, C, h, w) of at least {least}; "
                         "choose a convolution, its activation or a stage")
    height, width = output.shape[2:]
    if min(height, width) < SMALLEST_GRID:
        raise TrainError(f"gradcam: layer '{layer}' gives maps of {height}x{width} on images of {images.shape[2]}x"
                         f"{images.shape[3]} pixels, expected at least {least}; choose an earlier layer, or larger "
                         "images")

"""Inner features of a network by layer name: which layers there are, what shape they give, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolchain.distill.divergence import at_least_float32
from toolchain.errors import TrainError, nearest

PENULTIMATE = "penultimate"  # not a layer: what the last Conv2d or Linear sees, averaged over its positions

Shapes = Mapping[str, tuple[int, ...]]  # layer name -> shape of its output without N, in the order of execution


class Outputs(NamedTuple):
    """What a network gives for one batch."""

    logits: Tensor  # (N, K), float32 or float64
    features: dict[str, Tensor]  # layer name -> (N, C, H, W) or (N, D), in the dtype that it was computed in


def watch(model: nn.Module, layers: Sequence[str]) -> Callable[[nn.Module, Tensor], Outputs]:
    """A function run(replica, images) that calls `replica` (`model`, or a wrapper such as DDP around it).

    layers: names that `check_layer` accepted. images: (N, 3, S, S). The features are part of the graph that leads to
    the logits, and nothing is kept after the call. A layer that runs more than once gives its last output.
    `run` raises TrainError for a layer that did not run, or whose output the network overwrote.
    """
    if layers:
        # An in-place ReLU would overwrite the convolution's or BatchNorm's output that was tapped before it.
        _set_inplace([module for module in model.modules() if getattr(module, "inplace", False)], False)
    tapped = {name: model.get_submodule(name) for name in layers if name != PENULTIMATE}
    weighted = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]

    def run(replica: nn.Module, images: Tensor) -> Outputs:
        seen: dict[str, tuple[Tensor, int]] = {}
        # Hooks live for one call only: evaluation, copies and export of the model never meet them.
        hooks = [module.register_forward_hook(partial(_keep_output, seen, name)) for name, module in tapped.items()]
        if PENULTIMATE in layers:
            hooks += [module.register_forward_pre_hook(partial(_keep_input, seen)) for module in weighted]
        try:
            logits = replica(images)
        finally:
            for hook in hooks:
                hook.remove()
        features = {name: _unchanged(name, seen) for name in layers}
        if PENULTIMATE in features and features[PENULTIMATE].ndim == 4:
            features[PENULTIMATE] = features[PENULTIMATE].mean(dim=(2, 3))
        return Outputs(at_least_float32(logits), features)

    return run


def layer_shapes(model: nn.Module, image_size: int) -> dict[str, tuple[int, ...]]:
    """Shape without N of what each named module gives, in the order in which they finish (the last time they run).

    Modules that give no single tensor, or whose output the network itself overwrites, are left out; PENULTIMATE is the
    last entry, (D,). Found by two black images of image_size x image_size in eval mode; `model` is as before.
    """
    seen: dict[str, tuple[Tensor, int]] = {}
    last: dict[str, tuple[Tensor, int]] = {}

    def keep_last(name: str, module: nn.Module, args: Any, output: Any) -> None:
        seen.pop(name, None)  # so that a module that runs again moves to the end
        _keep_output(seen, name, module, args, output)

    modes = {module: module.training for module in model.modules()}
    inplace = [module for module in modes if getattr(module, "inplace", False)]
    hooks = [module.register_forward_hook(partial(keep_last, name)) for name, module in model.named_modules() if name]
    hooks += [module.register_forward_pre_hook(partial(_keep_input, last)) for module in modes
              if isinstance(module, (nn.Conv2d, nn.Linear))]
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    _set_inplace(inplace, False)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, image_size, image_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
        _set_inplace(inplace, True)
    shapes = {name: tuple(found.shape[1:]) for name, (found, version) in seen.items() if _version(found) == version}
    for name, (found, _) in last.items():
        shapes[name] = tuple(found.shape[1:2] if found.ndim == 4 else found.shape[1:])
    return shapes


def stages(shapes: Shapes) -> list[str]:
    """The ends of the network's stages, in order: per resolution above 1x1, the last outermost module that gives it.

    Outermost, because the first convolution inside a block that halves the resolution still runs at the old one
    (ResNet-50, MobileNetV2) and a head of 1x1 convolutions runs at the last one (SqueezeNet); neither ends a stage.
    """
    ends: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        resolution = shape[1:]
        if len(shape) == 3 and resolution != (1, 1) and name.count(".") <= ends.get(resolution, name).count("."):
            ends[resolution] = name
    found: list[str] = []
    for name in (name for name in shapes if name in ends.values()):
        if not found or shapes[name][1] < shapes[found[-1]][1]:  # a map that grew again holds nothing new
            found.append(name)
    return found


def second_stage(shapes: Shapes, field: str) -> str:
    """The end of the second stage, where RepDistiller takes its hint. `field`: of the recipe, for the TrainError."""
    ends = stages(shapes)
    if len(ends) < 2:
        raise TrainError(f"{field}: the network has {len(ends)} stages of different resolution, so no second one; "
                         "name a layer")
    return ends[1]


def matching_stages(student: Shapes, teacher: Shapes) -> list[tuple[str, str]]:
    """(student layer, teacher layer) for each resolution at which both have the end of a stage."""
    ends = {teacher[name][1:]: name for name in stages(teacher)}
    return [(name, ends[student[name][1:]]) for name in stages(student) if student[name][1:] in ends]


def check_layer(name: str, shapes: Shapes, field: str) -> str:
    """`name`, when it is a layer whose output can be read; otherwise TrainError with the nearest name."""
    if name in shapes:
        return name
    raise TrainError(f"{field}: '{name}' is not a layer whose output can be read{nearest(name, shapes)}; expected "
                     f"for example {', '.join([*stages(shapes), PENULTIMATE])}")


def needs_features(teacher: nn.Module | None, method: str) -> nn.Module:
    """`teacher`, when its layers can be read; TrainError for none, or for one that has logits only (ONNX)."""
    if teacher is None or getattr(teacher, "logits_only", False):
        raise TrainError(f"distill.teacher: {method} compares inner features, but this teacher gives logits only; use "
                         "a teacher with model, recipe or checkpoint, or the method soft_targets, dkd or "
                         "function_matching")
    return teacher


def _keep_output(seen: dict[str, tuple[Tensor, int]], name: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        seen[name] = (output, _version(output))


def _keep_input(seen: dict[str, tuple[Tensor, int]], module: nn.Module, args: Any) -> None:
    if args:
        seen[PENULTIMATE] = (args[0], _version(args[0]))


def _unchanged(name: str, seen: Mapping[str, tuple[Tensor, int]]) -> Tensor:
    if name not in seen:
        raise TrainError(f"distill: the layer '{name}' did not run; name one that runs for every batch")
    feature, version = seen[name]
    if _version(feature) != version:  # for example `out += identity` behind a ResNet block's last BatchNorm
        raise TrainError(f"distill: the network overwrites the output of the layer '{name}' after it ran; name the "
                         "block that holds it, or a layer before it")
    return feature


def _set_inplace(activations: Sequence[nn.Module], inplace: bool) -> None:
    for module in activations:
        module.inplace = inplace  # type: ignore[assignment]


def _version(tensor: Tensor) -> int:
    """How often `tensor` was written in place; inference mode does not count."""
    return 0 if tensor.is_inference() else tensor._version

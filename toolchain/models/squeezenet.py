"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv:1602.07360), from torchvision's Fire modules."""

from __future__ import annotations

from torch import nn
from torchvision.models import SqueezeNet
from torchvision.models.squeezenet import Fire

from toolchain.models.channels import scaled

# Fire(squeeze, expand) has 2 * expand output channels; "M" is a max-pool. The stem and its pool come before these.
STEM = {"squeezenet1_0": 96, "squeezenet1_1": 64}
STAGES: dict[str, list[tuple[int, int] | str]] = {
    "squeezenet1_0": [(16, 64), (16, 64), (32, 128), "M", (32, 128), (48, 192), (48, 192), (64, 256), "M", (64, 256)],
    "squeezenet1_1": [(16, 64), (16, 64), "M", (32, 128), (32, 128), "M", (48, 192), (48, 192), (64, 256), (64, 256)],
}
STEM_KERNEL = {"squeezenet1_0": 7, "squeezenet1_1": 3}


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """form "imagenet": torchvision's, total stride 16, whose last ReLU clamps logits to >= 0.

    form "cifar": a 3x3 stem of stride 1 without the pool behind it, so total stride 4; the last ReLU is left out,
    because clamped logits lose what distillation needs and leave classes without a gradient.
    """
    model = SqueezeNet(arch.removeprefix("squeezenet"), num_classes)
    if form == "imagenet" and width == 1:
        return model
    stem, kernel = scaled(STEM[arch], width), STEM_KERNEL[arch]
    layers: list[nn.Module] = []
    if form == "cifar":
        layers += [nn.Conv2d(3, stem, 3, padding=1), nn.ReLU(inplace=True)]
    else:
        layers += [nn.Conv2d(3, stem, kernel, stride=2), nn.ReLU(inplace=True), _pool()]
    channels = stem
    for stage in STAGES[arch]:
        if isinstance(stage, str):
            layers.append(_pool())
            continue
        squeeze, expand = scaled(stage[0], width), scaled(stage[1], width)
        layers.append(Fire(channels, squeeze, expand, expand))
        channels = 2 * expand
    model.features = nn.Sequential(*layers)
    model.classifier[1] = nn.Conv2d(channels, num_classes, 1)
    if form == "cifar":
        model.classifier[2] = nn.Identity()
    _initialise(model)
    return model


def _pool() -> nn.Module:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _initialise(model: SqueezeNet) -> None:
    """torchvision's rule for SqueezeNet."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            if layer is model.classifier[1]:
                nn.init.normal_(layer.weight, 0.0, 0.01)
            else:
                nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv:1602.07360), from torchvision's Fire modules."""

from __future__ import annotations

import math

import torch
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
GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # 1 / the std of ReLU(x), x ~ N(0, 1); Brock et al. 2021, section 4.3


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """form "imagenet": torchvision's, total stride 16. form "cifar": a 3x3 stem of stride 1 and no pool behind it: 4.

    In both forms the ReLU behind the last convolution is left out: clamped to >= 0, logits lose what distillation needs
    and leave classes without a gradient. It has no parameters, so torchvision's weights load as they are; but it stood
    before the spatial average, so torchvision's own 1000-class head gives other logits here than there, and needs some
    fine-tuning.
    """
    model = SqueezeNet(arch.removeprefix("squeezenet"), num_classes)
    model.classifier[2] = nn.Identity()
    if form == "cifar" or width != 1:
        _rebuild(model, arch, num_classes, form, width)
    _initialise(model)
    return model


def _rebuild(model: SqueezeNet, arch: str, num_classes: int, form: str, width: float) -> None:
    """Put in layers of scaled channels, and the CIFAR form's stem."""
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


def _pool() -> nn.Module:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _initialise(model: SqueezeNet) -> None:
    """Orthogonal filters of zero mean behind every ReLU, the last convolution included (torchvision's has std 0.01).

    What a ReLU gives is positive on average. Through 18 layers without BatchNorm that average, the same for every
    image, drowns what differs between images, and SGD stays at the uniform prediction. A filter whose weights sum to
    zero takes it out ("mean shift": Brock, De, Smith 2021, arXiv:2101.08692), GAIN keeps the variance, and
    orthogonality keeps narrow squeeze layers from losing directions. As there is still no BatchNorm, train with SGD at
    a learning rate of 0.01 (0.02 is unsteady), or with AdamW.
    """
    stem, *others = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    nn.init.kaiming_normal_(stem.weight)
    for layer in others:
        with torch.no_grad():
            filters = nn.init.orthogonal_(layer.weight).flatten(1)
            filters -= filters.mean(dim=1, keepdim=True)
            filters *= GAIN / filters.square().sum(dim=1).mean().sqrt()
    for layer in (stem, *others):
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)

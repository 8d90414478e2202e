"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), torchvision's class."""

from __future__ import annotations

from torch import nn
from torchvision.models import MobileNetV2

# expansion, channels, blocks, stride of each stage; the first two strides become 1 in the CIFAR form.
CIFAR_STAGES = [
    [1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1],
]


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """form "imagenet": total stride 32. form "cifar": stem and second stage keep their resolution, so total stride 8.

    width is the paper's multiplier: it never takes the last 1x1 convolution below 1280 channels.
    """
    if form == "imagenet":
        return MobileNetV2(num_classes, width_mult=width)
    model = MobileNetV2(num_classes, width_mult=width, inverted_residual_setting=CIFAR_STAGES)
    stem = model.features[0][0]
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)  # a 3x3 convolution already, with padding 1
    return model

"""VGG-11/13/16/19, with and without BatchNorm (Simonyan, Zisserman 2015, arXiv:1409.1556)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.vgg import make_layers

from toolchain.models.channels import scaled

# Convolutions of each of the five blocks; a block's channels are BLOCK_CHANNELS, a max-pool follows each.
BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
BLOCK_CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096
POOLED = 7


class CifarVgg(nn.Module):
    """VGG's convolutions, a global average, and one Linear layer.

    Total stride 16, not 32: the fifth max-pool is left out, so a 32x32 image keeps 2x2 positions for the average.
    """

    def __init__(self, features: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """float32 (N, 3, S, S), S >= 16 -> logits (N, K)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """`arch`: vgg11 … vgg19, or with _bn. form "imagenet" is torchvision's network, with its 7x7x4096 head."""
    name, batch_norm = arch.removesuffix("_bn"), arch.endswith("_bn")
    layers: list[str | int] = []
    for channels, convolutions in zip(BLOCK_CHANNELS, BLOCKS[name], strict=True):
        layers += [scaled(channels, width)] * convolutions + ["M"]
    last = scaled(BLOCK_CHANNELS[-1], width)
    if form == "cifar":
        model: nn.Module = CifarVgg(make_layers(layers[:-1], batch_norm), last, num_classes)
    else:
        whole = model = VGG(make_layers(layers, batch_norm), num_classes, init_weights=False)
        if width != 1:
            hidden = scaled(HIDDEN, width)
            whole.classifier[0] = nn.Linear(last * POOLED**2, hidden)
            whole.classifier[3] = nn.Linear(hidden, hidden)
            whole.classifier[6] = nn.Linear(hidden, num_classes)
    _initialise(model)
    return model


def _initialise(model: nn.Module) -> None:
    """torchvision's rule for VGG (BatchNorm starts as it should by itself)."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)

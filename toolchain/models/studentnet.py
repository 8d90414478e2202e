"""studentnet: the small CNN that the studies distil into."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolchain.models.channels import scaled

BLOCK_CHANNELS = (16, 64, 96, 128)
HIDDEN = 160


class StudentNet(nn.Module):
    """Four blocks of convolution, BatchNorm and ReLU with a max-pool between them, a global average, two Linear layers.

    The studies say of their network only that it has 281,613 parameters (1.07 MiB) for 525 classes. The layout here is
    ours; only that count is theirs:
    3x3 convolutions with bias 3-16-64-96-128: 175,840; BatchNorm: 608; Linear 128-160-525: 105,165.
    """

    def __init__(self, channels: list[int], hidden: int, num_classes: int, stem_stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
            stride = stem_stride if index == 0 else 1
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.BatchNorm2d(after),
                       nn.ReLU(inplace=True)]
            if index + 1 < len(channels):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(channels[-1], hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """float32 (N, 3, S, S), S >= 8 (imagenet: 15) -> logits (N, K)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """form "imagenet": total stride 16. form "cifar": the first convolution has stride 1, so total stride 8."""
    channels = [scaled(count, width) for count in BLOCK_CHANNELS]
    model = StudentNet(channels, scaled(HIDDEN, width), num_classes, stem_stride=1 if form == "cifar" else 2)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model

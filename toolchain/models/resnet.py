"""ResNet-18/34/50 (He et al. 2016, arXiv:1512.03385), from torchvision's blocks."""

from __future__ import annotations

from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from toolchain.models.channels import scaled

BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
STAGE_CHANNELS = (64, 128, 256, 512)


def construct(arch: str, num_classes: int, form: str, width: float) -> nn.Module:
    """form "imagenet": total stride 32. form "cifar": a 3x3 stem of stride 1 and no max-pool, so total stride 8."""
    block, depths = BLOCKS[arch]
    model = ResNet(block, depths, num_classes)
    if width != 1:
        _scale(model, block, depths, num_classes, width)
    if form == "cifar":
        model.conv1 = nn.Conv2d(3, scaled(STAGE_CHANNELS[0], width), 3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()  # type: ignore[assignment]
    for layer in model.modules():  # torchvision's rule, also for the layers put in here
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


def _scale(
    model: ResNet, block: type[BasicBlock | Bottleneck], depths: list[int], num_classes: int, width: float
) -> None:
    """Replace every layer by one with scaled channels; torchvision's own width option knows only Bottleneck."""
    channels = [scaled(count, width) for count in STAGE_CHANNELS]
    model.inplanes = channels[0]
    model.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(channels[0])
    for stage, (count, depth) in enumerate(zip(channels, depths, strict=True)):
        setattr(model, f"layer{stage + 1}", model._make_layer(block, count, depth, stride=1 if stage == 0 else 2))
    model.fc = nn.Linear(channels[-1] * block.expansion, num_classes)

"""vgg.py, resnet.py, mobilenet.py, squeezenet.py, studentnet.py and channels.py: sizes, shapes and forms."""

import math

import pytest
import torch
from torch import nn

from toolchain.models import LISTED, MODELS
from toolchain.models.channels import scaled


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def last_positions(model: nn.Module, size: int) -> tuple[int, int]:
    """Height and width of what goes into the last pooling to 1x1."""
    shapes = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, output: shapes.append(tuple(output.shape[2:])))
    model.eval()(torch.zeros(1, 3, size, size))
    return shapes[-1]


@pytest.mark.parametrize(("arch", "classes", "expected"), [
    ("vgg11", 10, 128_807_306), ("vgg11", 100, 129_176_036), ("vgg11", 1000, 132_863_336),
    ("vgg16", 100, 134_670_244), ("vgg19", 100, 139_979_940),
    ("resnet18", 100, 11_227_812), ("resnet50", 100, 23_712_932), ("resnet18", 525, 11_445_837),
    ("resnet50", 525, 24_583_757), ("resnet34", 1000, 21_797_672),
    ("squeezenet1_0", 525, 1_004_749), ("squeezenet1_1", 525, 991_821),
    ("mobilenet_v2", 100, 2_351_972), ("studentnet", 525, 281_613),
])
def test_the_imagenet_form_has_the_published_number_of_parameters(arch, classes, expected):
    with torch.device("meta"):  # sizes only: VGG's 100 million weights are not filled
        assert parameters(MODELS[arch](classes, "imagenet", 1.0)) == expected


def test_cifar_vgg11_bn_is_its_convolutions_batchnorms_and_one_linear_layer():
    pairs = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    convolutions = sum(9 * a * b + b for a, b in pairs)
    norms = 2 * sum(b for _, b in pairs)
    expected = convolutions + norms + 512 * 10 + 10
    assert expected == 9_231_114
    assert parameters(MODELS["vgg11_bn"](10, "cifar", 1.0)) == expected


def test_studentnet_has_the_studies_count_in_both_forms():
    convolutions = sum(9 * a * b + b for a, b in [(3, 16), (16, 64), (64, 96), (96, 128)])
    norms, head = 2 * (16 + 64 + 96 + 128), (128 * 160 + 160) + (160 * 525 + 525)
    assert convolutions + norms + head == 281_613
    assert round(4 * 281_613 / 2**20, 2) == 1.07  # the studies' size in MiB
    for form in ("cifar", "imagenet"):
        assert parameters(MODELS["studentnet"](525, form, 1.0)) == 281_613


def test_cifar_resnet18_differs_from_torchvisions_by_its_stem_only():
    with torch.device("meta"):
        assert parameters(MODELS["resnet18"](100, "cifar", 1.0)) == 11_227_812 - (49 - 9) * 3 * 64


@pytest.mark.parametrize("arch", LISTED)
def test_the_cifar_form_keeps_at_least_two_by_two_positions_at_32_pixels(arch):
    height, width = last_positions(MODELS[arch](10, "cifar", 0.125), 32)
    assert min(height, width) >= 2


@pytest.mark.parametrize(("arch", "stride"), [("vgg11", 16), ("resnet18", 8), ("mobilenet_v2", 8), ("squeezenet1_1", 4),
                                             ("studentnet", 8)])
def test_the_total_stride_of_the_cifar_form_is_the_documented_one(arch, stride):
    assert last_positions(MODELS[arch](10, "cifar", 0.125), 64) == (64 // stride, 64 // stride)


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
@pytest.mark.parametrize("arch", [a for a in LISTED if a not in ("vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg19_bn")])
def test_a_narrow_network_gives_one_logit_per_class_and_a_gradient_for_every_weight(arch, form):
    torch.manual_seed(0)
    model = MODELS[arch](7, form, 0.125).train()
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("arch", ["vgg11_bn", "resnet18", "resnet50", "squeezenet1_0", "studentnet"])
def test_half_the_width_is_half_of_every_channel_count(arch):
    with torch.device("meta"):
        whole, half = MODELS[arch](10, "cifar", 1.0), MODELS[arch](10, "cifar", 0.5)
    pairs = list(zip(whole.modules(), half.modules(), strict=True))
    convolutions = [(a, b) for a, b in pairs if isinstance(a, nn.Conv2d) and a.out_channels != 10]
    assert len(convolutions) > 3
    for a, b in convolutions:
        assert b.out_channels == a.out_channels // 2
        assert b.in_channels == (3 if a.in_channels == 3 else a.in_channels // 2)


@pytest.mark.parametrize(("channels", "width", "expected"), [
    (64, 1.0, 64), (17, 1.0, 17), (64, 0.5, 32), (96, 0.3, 32), (64, 0.01, 8), (48, 0.25, 16), (64, 1.5, 96),
])
def test_scaled_channels_are_the_nearest_multiple_of_eight(channels, width, expected):
    assert scaled(channels, width) == expected  # 96 * 0.3 = 28.8 -> 32; 48 * 0.25 = 12 -> 16 (halves go up)


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
@pytest.mark.parametrize(("arch", "width"), [("squeezenet1_0", 0.25), ("squeezenet1_1", 0.25), ("squeezenet1_1", 1.0)])
def test_squeezenet_gives_negative_logits_too(arch, form, width):
    torch.manual_seed(0)
    assert MODELS[arch](10, form, width).eval()(torch.randn(8, 3, 32, 32)).min() < 0


def test_squeezenets_logits_are_the_averaged_scores_before_torchvisions_last_relu():
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    theirs = squeezenet1_1(num_classes=7).eval()
    ours = MODELS["squeezenet1_1"](7, "imagenet", 1.0).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    scores = theirs.classifier[1](theirs.features(images))
    assert torch.allclose(ours(images), scores.mean(dim=(2, 3)), atol=1e-6)


def test_squeezenets_filters_sum_to_zero_each_and_keep_the_variance_behind_a_relu():
    torch.manual_seed(0)
    for form in ("cifar", "imagenet"):
        model = MODELS["squeezenet1_1"](10, form, 0.25)
        stem, *others = (m.weight.detach().flatten(1) for m in model.modules() if isinstance(m, nn.Conv2d))
        assert len(others) == 8 * 3 + 1
        for filters in others:
            assert filters.sum(dim=1).abs().max() < 1e-5
            # the variance of ReLU(x), x ~ N(0, 1), is (1 - 1 / pi) / 2
            assert filters.square().sum(dim=1).mean().item() == pytest.approx(2 / (1 - 1 / math.pi), rel=1e-5)


def test_the_imagenet_form_is_torchvisions_network_weight_for_weight():
    from torchvision.models import get_model

    for arch in ("vgg11_bn", "resnet50", "mobilenet_v2", "squeezenet1_0"):
        with torch.device("meta"):
            ours, theirs = MODELS[arch](1000, "imagenet", 1.0), get_model(arch)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}

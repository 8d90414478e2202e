import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.gradcam.maps import check_layer, default_layer, grad_cam, map_shapes
from toolchain.models import MODELS

CLASSES = torch.tensor([0, 2, 1])


def images(size=6, dtype=torch.float32):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def net(inplace=True):
    """Two convolutions with BatchNorm between, dropout and a Linear head over all positions of 6x6 images."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace), nn.Conv2d(5, 4, 3),
                          nn.ReLU(inplace), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


def test_the_map_of_a_gap_linear_head_is_the_class_activation_map():
    """score = sum_k W[c, k] mean(A_k) + b, so alpha_k = W[c, k] / (H W) in closed form."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
    head = nn.Linear(5, 3)
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    activation = body(images()).detach()
    expected = torch.einsum("nk,nkhw->nhw", head.weight[CLASSES] / 36, activation).relu()
    assert torch.allclose(grad_cam(model, images(), CLASSES, "0"), expected, rtol=1e-5, atol=1e-8)
    assert expected.amax() > 0


def test_the_map_equals_the_one_from_numeric_derivatives():
    model = net().double().eval()
    x = images(dtype=torch.float64)
    activation = model[:3](x).detach()
    alpha, step = torch.zeros(3, 5, dtype=torch.float64), 1e-5
    with torch.no_grad():
        for k in range(5):
            for i in range(6):
                for j in range(6):
                    moved = torch.zeros_like(activation)
                    moved[:, k, i, j] = step
                    change = model[3:](activation + moved) - model[3:](activation - moved)
                    alpha[:, k] += change[torch.arange(3), CLASSES] / (2 * step) / 36
    expected = (alpha[:, :, None, None] * activation).sum(dim=1).clamp(min=0)
    assert torch.allclose(grad_cam(model, x, CLASSES, "2"), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
def test_an_activation_that_overwrites_its_input_changes_no_map(layer):
    for one in (net(inplace=True), net(inplace=True).requires_grad_(False)):
        found = grad_cam(one, images(), CLASSES, layer)
        assert torch.allclose(found, grad_cam(net(inplace=False), images(), CLASSES, layer), rtol=1e-6)
        assert found.shape == ((3, 6, 6) if layer < "3" else (3, 4, 4)) and (found >= 0).all()


def test_the_model_is_left_as_it_was():
    model = net()
    model[1].eval()  # one module in another mode than the rest
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grad_cam(model, images(), CLASSES, "2")
    default_layer(model, 6)
    with pytest.raises(TrainError):
        grad_cam(model, images(), CLASSES, "7")
    assert [module.training for module in model] == [True, False, True, True, True, True, True, True]
    assert [parameter.requires_grad for parameter in model[0].parameters()] == [False, False]
    assert all(parameter.requires_grad for parameter in model[3:].parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_maps_are_had_inside_no_grad_and_no_image_changes_anothers():
    with torch.no_grad():
        together = grad_cam(net(), images(), CLASSES, "2")
        alone = grad_cam(net(), images()[1:2], CLASSES[1:2], "2")
        assert not torch.is_grad_enabled()
    assert torch.allclose(together[1], alone[0], rtol=1e-5, atol=1e-7) and not together.requires_grad


def test_of_a_layer_that_runs_twice_the_last_run_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.relu(self.conv(self.relu(self.conv(x)))).mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Twice()
    last = model.conv(model.conv(images()).relu()).relu().detach()
    expected = torch.einsum("nk,nkhw->nhw", model.head.weight[CLASSES] / 36, last).relu()
    assert torch.allclose(grad_cam(model, images(), CLASSES, "relu"), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("arch", "form", "size", "layer", "shape"), [
    ("resnet18", "cifar", 32, "layer4", (128, 4, 4)),
    ("resnet18", "imagenet", 32, "layer2", (32, 4, 4)),  # layer3 and layer4 have 2x2 and 1x1
    ("vgg11", "cifar", 32, "features.14", (128, 4, 4)),  # the fourth block's last ReLU; the fifth has 2x2
    ("vgg11", "imagenet", 64, "features.19", (128, 4, 4)),  # features[-2]; the pools behind it give 2x2 and 7x7
    ("mobilenet_v2", "cifar", 32, "features", (1280, 4, 4)),
])
def test_the_default_layer_ends_the_last_stage_of_at_least_4x4(arch, form, size, layer, shape):
    model = MODELS[arch](10, form, 0.25)
    assert default_layer(model, size) == layer
    assert map_shapes(model, size)[layer] == shape and model.training


def test_a_pooled_map_is_no_candidate_but_its_activation_is():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout())
    model = nn.Sequential(pooled, nn.Flatten(), nn.Linear(64, 3))
    assert default_layer(model, 8) == "0.1"  # 8x8; the pool, the dropout and the block hand on 4x4 of the same
    before_relu = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Flatten())
    assert default_layer(before_relu, 8) == "2"


def test_images_too_small_for_any_map_are_refused():
    with pytest.raises(TrainError, match="no layer with maps of at least 4x4 on images of 3x3 pixels"):
        default_layer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), 3)


def test_a_misspelt_layer_is_answered_with_the_nearest_name():
    model = MODELS["vgg11"](10, "cifar", 0.25)
    with pytest.raises(TrainError, match="'feature.14' is not a layer of the network, did you mean 'features.14'"):
        check_layer(model, "feature.14", 32)


def test_a_grid_too_small_is_named():
    model = MODELS["vgg11"](10, "cifar", 0.25)
    assert check_layer(model, "features.14", 32) == (4, 4)
    with pytest.raises(TrainError, match="'features.19' gives maps of 2x2 on images of 32x32 pixels, expected at least 4x4"):
        check_layer(model, "features.19", 32)


def test_a_layer_without_positions_is_refused():
    with pytest.raises(TrainError, match=r"layer '7' gives shape \(3, 3\), expected maps"):
        grad_cam(net(), images(), CLASSES, "7")


def test_a_layer_that_does_not_run_or_does_not_matter_is_refused():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.idle, self.aside = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x):
            self.aside(x)
            return self.body(x).mean(dim=(2, 3))

    with pytest.raises(TrainError, match="layer 'idle' does not run"):
        grad_cam(Spare(), images(), CLASSES, "idle")
    for model in (Spare(), Spare().requires_grad_(False)):
        with pytest.raises(TrainError, match="the logits do not depend on layer 'aside'"):
            grad_cam(model, images(), CLASSES, "aside")

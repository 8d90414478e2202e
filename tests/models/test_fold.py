import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.models import LISTED, MODELS
from toolchain.models.fold import fold_batchnorm


def shaken(model: nn.Module) -> nn.Module:
    """BatchNorm as after training: no mean, variance, scale or shift at its initial value."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return model


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
@pytest.mark.parametrize("arch", [a for a in LISTED if a.endswith("_bn") or "vgg" not in a])
def test_a_folded_network_computes_the_same_logits_without_batchnorm(arch, form):
    model = shaken(MODELS[arch](10, form, 0.125)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_batchnorm(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.allclose(folded(images), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_scale_and_bias_are_those_worked_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    nn.init.constant_(conv.weight, 2.0)
    norm.weight.data.fill_(6.0)
    norm.bias.data.fill_(1.0)
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(4.0)  # y = 6 * (2x - 5) / 2 + 1 = 6x - 14
    folded = fold_batchnorm(nn.Sequential(conv, norm))
    assert folded[0].weight.item() == pytest.approx(6.0)
    assert folded[0].bias.item() == pytest.approx(-14.0)


def test_convolutions_keep_their_names_and_the_original_is_not_touched():
    model = MODELS["resnet18"](10, "cifar", 0.125).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = set(fold_batchnorm(model).state_dict())
    kept = {name for name in before if name.endswith(".weight") and before[name].dim() == 4}
    assert kept <= names and "conv1.bias" in names and "fc.bias" in names
    assert not any("running" in name for name in names)
    assert model.training and all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_the_folded_copy_keeps_its_class_and_is_in_eval_mode():
    model = MODELS["resnet18"](10, "cifar", 0.125)
    folded = fold_batchnorm(model)
    assert type(folded) is type(model) and not folded.training


def test_a_linear_layer_takes_its_batchnorm_in_as_well():
    model = shaken(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())).eval()
    folded = fold_batchnorm(model)
    rows = torch.randn(5, 3)
    assert isinstance(folded[1], nn.Identity)
    assert torch.allclose(folded(rows), model(rows), atol=1e-6)


class Shared(nn.Module):
    """The convolution's result is read twice, so its BatchNorm cannot be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_batchnorm_that_cannot_be_folded_stays_and_the_result_is_right():
    model = shaken(Shared()).eval()
    folded = fold_batchnorm(model)
    images = torch.randn(1, 3, 4, 4)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    assert torch.allclose(folded(images), model(images))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_network_that_branches_on_values_is_named():
    with pytest.raises(TrainError, match="Branching: cannot be traced"):
        fold_batchnorm(Branching())

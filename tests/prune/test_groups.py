"""Which channels are tied, that removing them is the same as silencing them, and what is refused."""

import copy
import json

import pytest
import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.models import create_model
from toolchain.prune import replay
from toolchain.prune.groups import members, remove, trace
from toolchain.recipe.schema import TorchModel


def network(arch: str) -> nn.Module:
    """A listed network whose BatchNorms are not the identity."""
    torch.manual_seed(0)
    model = create_model(TorchModel(arch=arch, width=0.25), 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


class Grouped(nn.Module):
    """A convolution of two blocks ties the positions within its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, images):
        return self.head(self.grouped(self.first(images).relu()).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize(("arch", "expected"), [
    ("vgg11_bn", {"features.0"}),
    ("resnet18", {"conv1", "layer1.0.conv2", "layer1.1.conv2"}),  # the residual additions of the first stage
    ("mobilenet_v2", {"features.2.conv.0.0", "features.2.conv.1.0"}),  # expansion and its depthwise convolution
    ("squeezenet1_1", {"features.2.expand3x3"})])
def test_layers_whose_channels_are_tied_form_one_group(arch: str, expected: set[str]) -> None:
    assert expected in [set(group.layers) for group in trace(network(arch), 32).groups.values()]


def test_a_concatenated_layer_is_read_behind_its_neighbour() -> None:
    traced = trace(network("squeezenet1_1"), 32)
    reader = next(m for m in members(traced, "features.2.expand3x3") if m.layer == "features.3.squeeze")
    assert reader.inputs and reader.indices.tolist() == list(range(16, 32)) and reader.roots.tolist() == list(range(16))


def test_blocks_of_a_grouped_convolution_lose_the_same_positions() -> None:
    traced = trace(Grouped(), 8)
    assert (traced.groups["first"].blocks, traced.groups["first"].units) == (2, 4)
    smaller, steps = remove(Grouped(), 8, {"first": [1, 3]})
    assert steps == [["first", True, [1, 3, 5, 7]]] and smaller.grouped.weight.shape == (12, 2, 3, 3)


def silenced(model: nn.Module, gone: dict[str, torch.Tensor]) -> nn.Module:
    """A copy in which the outputs of BatchNorm, or of a layer without one, are zero on those channels."""
    reference = copy.deepcopy(model)
    for name, channels in gone.items():
        def silence(_module, _inputs, outputs, channels=channels):
            outputs = outputs.clone()
            outputs[:, channels] = 0
            return outputs

        reference.get_submodule(name).register_forward_hook(silence)
    return reference


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("arch", ["vgg11_bn", "resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_silencing_channels_in_the_original_equals_removing_them(arch: str, seed: int) -> None:
    model, random = network(arch), torch.Generator().manual_seed(seed)
    traced, removed, gone = trace(copy.deepcopy(model), 32), {}, {}
    for name, group in traced.groups.items():
        count = int(torch.randint(0, group.units, (), generator=random))
        removed[name] = torch.randperm(group.units, generator=random)[:count].tolist()
        tied = [m for m in members(traced, name) if not m.inputs]
        norms = [m for m in tied if isinstance(model.get_submodule(m.layer), nn.BatchNorm2d)]
        for member in norms or tied:
            channels = member.indices[torch.isin(member.roots, torch.tensor(removed[name], dtype=torch.int64))]
            gone[member.layer] = torch.cat([gone.get(member.layer, channels[:0]), channels])
    smaller, steps = remove(model, 32, removed)
    images = torch.randn(2, 3, 32, 32, generator=random)
    with torch.no_grad():
        torch.testing.assert_close(smaller(images), silenced(model, gone)(images), atol=1e-5, rtol=1e-5)
    rebuilt = replay(network(arch), json.loads(json.dumps({"method": "channels", "image_size": 32, "steps": steps})))
    assert [p.shape for p in rebuilt.parameters()] == [p.shape for p in smaller.parameters()]


def test_what_is_kept_has_the_weights_of_the_original() -> None:
    model = network("vgg11_bn")
    smaller, _ = remove(model, 32, {"features.0": [0, 5], "features.4": [1]})
    outputs, inputs = [i for i in range(32) if i != 1], [i for i in range(16) if i not in (0, 5)]
    assert torch.equal(smaller.features[4].weight, model.features[4].weight[outputs][:, inputs])
    assert torch.equal(smaller.features[1].running_var, model.features[1].running_var[inputs])


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(1)  # channels change places: nothing that torch-pruning could know

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(1)


class Strange(nn.Module):
    """Two convolutions with an operation between them."""

    def __init__(self, operation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.operation = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), operation
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.second(self.operation(self.first(images))).mean(dim=(2, 3)))


@pytest.mark.parametrize(("operation", "words"), [
    (Custom.apply, "torch-pruning does not know Custom: use"),
    (lambda x: torch.fft.fft(x, dim=1).real, "torch-pruning does not know FftR2C"),
    (lambda x: x - x.mean(dim=1, keepdim=True), "computes something else"),
    (lambda x: x.reshape(len(x), 8, *x.shape[2:]), "the network's own forward does not run .* a size that is written")])
def test_an_operation_that_cannot_be_followed_is_refused_and_named(operation, words: str) -> None:
    with pytest.raises(TrainError, match=words):
        remove(Strange(operation), 8, {"first": [0, 1, 2]})


def test_an_unknown_operation_that_keeps_channels_apart_is_no_trouble() -> None:
    assert remove(Strange(torch.special.erf), 8, {"first": [0, 1, 2]})[0].second.in_channels == 5


@pytest.mark.parametrize(("steps", "words"), [
    ([["nowhere", True, [0]]], "this one has no Conv2d or Linear named nowhere"),
    ([["first", True, [3, 8]]], "first has 8 channels, and the history removes 2 of them, up to number 8"),
    ([["first", True, list(range(8))]], "the history removes 8 of them")])
def test_a_history_of_another_network_is_refused(steps, words: str) -> None:
    with pytest.raises(TrainError, match=f"it was written for another network; .*{words}"):
        replay(Strange(torch.relu), {"method": "channels", "image_size": 8, "steps": steps})


def test_the_last_channels_of_a_layer_cannot_go() -> None:
    with pytest.raises(TrainError, match="layer second would be left without channels; remove fewer than 6"):
        remove(Strange(torch.relu), 8, {"second": range(6)})

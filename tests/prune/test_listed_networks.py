"""The networks that a recipe can name, pruned at a quarter of their width."""

import json

import pytest
import torch
from torch import nn

from toolchain.models import create_model
from toolchain.prune import prune, replay
from toolchain.recipe.schema import Channels, TorchModel

NETWORKS = ("vgg11_bn", "resnet18", "mobilenet_v2", "squeezenet1_1", "studentnet")


def network(arch: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(TorchModel(arch=arch, width=0.25), 10).eval()


def widths(model: nn.Module) -> dict[str, int]:
    return {name: layer.weight.shape[0] for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))}


@pytest.mark.parametrize("arch", NETWORKS)
def test_half_of_every_layer_goes_except_the_logits_and_the_history_rebuilds_it(arch):
    model = network(arch)
    pruned, history = prune(model, Channels(method="channels", ratio=0.5, round_to=2), 32)

    before, after = widths(model), widths(pruned)
    head = list(before)[-1]
    assert after.pop(head) == before.pop(head) == 10
    for name, channels in after.items():  # half, rounded down to a multiple of 2
        assert channels == before[name] // 2 - before[name] // 2 % 2, name

    rebuilt = replay(network(arch), json.loads(json.dumps(history)))
    rebuilt.load_state_dict(pruned.state_dict())
    images = torch.randn(2, 3, 32, 32)
    logits = pruned(images)
    assert logits.shape == (2, 10)
    assert torch.equal(rebuilt(images), logits)
    pruned.train()(images).sum().backward()  # fine-tuning has a gradient everywhere
    assert all(parameter.grad is not None for parameter in pruned.parameters())

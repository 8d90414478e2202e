import copy
import warnings
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.fx import symbolic_trace
from train_data import squares

from toolchain.errors import TrainError
from toolchain.export import export_onnx
from toolchain.graph.convert import convert
from toolchain.quantize.modelopt import fake_quantize, quantized_layers
from toolchain.quantize.qat import PROVIDERS, layers_in_order, qat
from toolchain.recipe.schema import Export, Int8, Qat, QatTrain, Sgd
from toolchain.steps.timing import made_up_ranges
from toolchain.train import label_loss

AMAX = {"0.weight": 3.0, "2.weight": 4.0, "6.weight": 5.0}
CFG = Qat(method="qat", train=QatTrain(epochs=2, batch_size=16, optimizer=Sgd(method="sgd", lr=0.02)))


def net() -> nn.Module:
    """Two convolutions and a head as a folded model arrives: an fx GraphModule without BatchNorm."""
    torch.manual_seed(1)
    return symbolic_trace(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 3)))


def images(count: int = 5) -> torch.Tensor:
    return 2 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rounded(values: torch.Tensor, amax: torch.Tensor | float, lowest: int) -> torch.Tensor:
    scale = torch.as_tensor(amax) / 127
    return (values / scale).round().clamp(lowest, 127) * scale


def per_channel(weight: torch.Tensor) -> torch.Tensor:
    amax = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    return rounded(weight, amax, -127)


def test_one_layer_computes_with_inputs_and_weights_on_the_int8_grid():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 4))
    weight, bias = layer[0].weight.detach().clone(), layer[0].bias.detach().clone()
    inputs = torch.randn(7, 6) * 2
    expected = rounded(inputs, 1.5, -128) @ per_channel(weight).T + bias
    torch.testing.assert_close(fake_quantize(layer, {"0": 1.5})(inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_gradient_passes_inside_the_range_and_stops_where_inputs_are_clipped():
    layer = nn.Sequential(nn.Linear(3, 1, bias=False))
    nn.init.ones_(layer[0].weight)
    inputs = torch.tensor([[0.5, 2.0, -3.0]], requires_grad=True)
    fake_quantize(layer, {"0": 1.0})(inputs).sum().backward()
    assert inputs.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert layer[0].weight.grad.shape == (1, 3)


def test_eval_mode_keeps_the_fake_quantization_on():
    model = fake_quantize(net(), {name.removesuffix(".weight"): amax for name, amax in AMAX.items()})
    model.train()
    in_training = model(images())
    model.eval()
    assert torch.equal(model(images()), in_training)
    assert quantized_layers(model) == {"0", "2", "6"}
    assert not torch.equal(in_training, net()(images()))


def test_only_the_named_layers_are_quantized_and_nothing_is_printed(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fake_quantize(net(), {"2": 1.0})
    assert quantized_layers(model) == {"2"}
    assert capfd.readouterr() == ("", "")


def test_qat_returns_the_plain_model_with_trained_weights_and_its_ranges(tmp_path):
    model = net()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    returned, learned, history = qat(model, squares(), CFG, AMAX, folder=tmp_path, seed=0)
    assert returned is model
    assert list(model.state_dict()) == list(start)
    assert type(model.get_submodule("0")) is nn.Conv2d
    assert not torch.equal(model.get_submodule("0").weight, start["0.weight"])
    assert {name: found["input_amax"] for name, found in learned.items()} == AMAX
    for name, found in learned.items():
        weight = model.state_dict()[name]
        assert found["weight_amax"] == [channel.abs().max().item() for channel in weight]
    assert len(history) == 2


def test_the_returned_weights_and_ranges_reproduce_the_accuracy_that_was_reported(tmp_path):
    data = squares()
    model, learned, history = qat(net(), data, CFG, AMAX, folder=tmp_path, seed=0)
    x = torch.from_numpy(data.preprocess.normalize(data.val.pixels))
    for name in ("0", "2"):
        layer = model.get_submodule(name)
        x = rounded(x, learned[f"{name}.weight"]["input_amax"], -128)
        x = nn.functional.conv2d(x, per_channel(layer.weight), layer.bias, padding=layer.padding).relu()
    x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    head = model.get_submodule("6")
    logits = rounded(x, learned["6.weight"]["input_amax"], -128) @ per_channel(head.weight).T + head.bias
    top1 = 100 * (logits.argmax(1).numpy() == data.val.labels).mean()
    assert top1 == pytest.approx(history[-1]["val_top1"])


def test_an_interrupted_qat_resumes_to_the_same_weights(tmp_path):
    whole, *_ = qat(net(), squares(), CFG, AMAX, folder=tmp_path / "whole", seed=0)
    plain, calls = label_loss(CFG.train), iter(range(100))

    def loss(model, batch, progress):
        if next(calls) == 8:  # in the second epoch of six steps
            raise KeyboardInterrupt
        return plain(model, batch, progress)

    with pytest.raises(KeyboardInterrupt):
        qat(net(), squares(), CFG, AMAX, folder=tmp_path / "cut", seed=0, loss=loss)
    assert (tmp_path / "cut/checkpoints/epoch_0001.safetensors").is_file()
    resumed, *_ = qat(net(), squares(), CFG, AMAX, folder=tmp_path / "cut", seed=0)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_zeros_survive_and_are_zero_codes_in_the_int8_file(tmp_path):
    model = net()
    kept = {name: torch.rand(model.get_submodule(name).weight.shape) < 0.5 for name in ("0", "2", "6")}
    with torch.no_grad():
        for name, mask in kept.items():
            model.get_submodule(name).weight.mul_(mask)
    start = copy.deepcopy(model)
    model, _, _ = qat(model, squares(), CFG, AMAX, folder=tmp_path, seed=0)
    for name, mask in kept.items():
        weight = model.get_submodule(name).weight
        assert torch.equal(weight != 0, mask)
        assert not torch.equal(weight, start.get_submodule(name).weight)  # the others were trained
    export_onnx(model, tmp_path / "float.onnx", Export(), 8, 3)
    convert(tmp_path / "float.onnx", tmp_path / "int8.onnx", "int8", "tensorrt", made_up_ranges(tmp_path / "float.onnx"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    codes = sorted((array for array in stored.values() if array.dtype == np.int8 and array.ndim > 1), key=np.size)
    for array, name in zip(codes, ("6", "0", "2"), strict=True):  # by size: 96, 216 and 576 weights
        assert not array[~kept[name].numpy()].any()


def test_first_and_last_layer_can_stay_float(tmp_path):
    cfg = CFG.model_copy(update={"int8": Int8(first_last="float")})
    _, learned, _ = qat(net(), squares(), cfg, AMAX, folder=tmp_path, seed=0)
    assert list(learned) == ["2.weight"]


def test_layers_are_listed_in_the_order_they_run():
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.unused = nn.Linear(8, 4), nn.Conv2d(3, 8, 3), nn.Linear(1, 1)

        def forward(self, x):
            return self.head(self.body(x).mean(dim=(2, 3)))

    assert layers_in_order(HeadFirst(), 8) == ["body", "head"]


def test_a_layer_that_the_provider_skips_is_named(tmp_path):
    class OwnConv(nn.Conv2d):
        """A subclass with its own forward, which ModelOpt leaves in float without a word."""

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight, self.bias)

    model = nn.Sequential(OwnConv(3, 8, 8), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(TrainError, match=r"would quantize 1 of 2 layers, not 0 \(OwnConv\)"):
        qat(model, squares(), CFG, {"0.weight": 1.0, "2.weight": 1.0}, folder=tmp_path, seed=0)


@pytest.mark.parametrize("amax, message", [
    ({"0.weight": 1.0, "2.weight": 1.0}, r"no calibrated input range for 6.weight \(1 of 3 layers\)"),
    ({**AMAX, "matmul.weight": 1.0}, "matmul.weight would be quantized in the engine but not in training"),
])
def test_ranges_that_do_not_match_the_layers_are_refused(tmp_path, amax, message):
    with pytest.raises(TrainError, match=message):
        qat(net(), squares(), CFG, amax, folder=tmp_path, seed=0)


def test_every_provider_of_the_recipe_exists():
    assert set(PROVIDERS) == set(get_args(get_args(Qat.model_fields["provider"].annotation)[0]))

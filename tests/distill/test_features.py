import gc
import weakref

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from toolchain.distill.features import (
    PENULTIMATE,
    check_layer,
    layer_shapes,
    matching_stages,
    needs_features,
    second_stage,
    stages,
    watch,
)
from toolchain.errors import TrainError
from toolchain.models import create_model
from toolchain.recipe.schema import TorchModel


def network(arch: str, form: str = "cifar", size: int = 32) -> dict[str, tuple[int, ...]]:
    return layer_shapes(create_model(TorchModel(arch=arch, form=form, width=0.125), num_classes=5), size)


def small(inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def test_shapes_come_in_the_order_of_execution_and_without_the_batch():
    assert list(layer_shapes(small(), 8).items()) == [
        ("0", (4, 8, 8)), ("1", (4, 8, 8)), ("2", (4, 2, 2)), ("3", (16,)), ("4", (5,)), (PENULTIMATE, (16,))]


def test_the_trial_leaves_modes_statistics_and_inplace_activations_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2).eval(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(2 * 16, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_shapes(model, 4)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model[2].inplace
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("arch", "expected"), [
    ("vgg11", {"features.1": 32, "features.4": 16, "features.9": 8, "features.14": 4, "features": 2}),
    ("resnet18", {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}),
    ("resnet50", {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}),
    ("mobilenet_v2", {"features.3": 32, "features.6": 16, "features.13": 8, "features": 4}),
    ("squeezenet1_1", {"features.3": 32, "features.6": 16, "features": 8}),
])
def test_the_stages_of_the_listed_networks_end_where_their_papers_end_them(arch, expected):
    shapes = network(arch)
    assert {name: shapes[name][1] for name in stages(shapes)} == expected


def test_a_map_that_grows_again_ends_no_stage():
    # torchvision's VGG at 32 pixels: 1x1 after the fifth pool, spread to 7x7 by the adaptive one
    assert stages(network("vgg11", form="imagenet")) == [f"features.{layer}" for layer in (1, 4, 9, 14, 19)]


def test_stages_match_by_resolution_and_the_second_one_is_the_hint():
    student, teacher = network("squeezenet1_1"), network("resnet18")
    assert matching_stages(student, teacher) == [("features.3", "layer1"), ("features.6", "layer2"), ("features", "layer3")]
    assert second_stage(teacher, "distill.teacher_layer") == "layer2"


def test_a_network_with_a_single_resolution_has_no_second_stage():
    with pytest.raises(TrainError, match="distill.student_layer: the network has 1 stages .* name a layer"):
        second_stage({"conv": (4, 8, 8), "fc": (5,)}, "distill.student_layer")


def test_an_unknown_layer_is_refused_with_the_nearest_one():
    shapes = network("resnet18")
    assert check_layer("layer2.0.bn1", shapes, "distill.student_layer") == "layer2.0.bn1"
    assert check_layer(PENULTIMATE, shapes, "distill.student_layer") == PENULTIMATE
    with pytest.raises(TrainError, match="distill.student_layer: 'layer_2' is not a layer whose output can be read, did you mean "
                                         "'layer2'.*; expected for example layer1, layer2, layer3, layer4, penultimate"):
        check_layer("layer_2", shapes, "distill.student_layer")


class Pair(nn.Module):
    def forward(self, images):
        return images, images


class Picks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.fc = Pair(), nn.Linear(3 * 4, 2)

    def forward(self, images):
        return self.fc(self.pair(images)[0].flatten(1))


def test_a_module_that_gives_a_tuple_is_no_layer():
    shapes = layer_shapes(Picks(), 2)
    assert list(shapes) == ["fc", PENULTIMATE]
    with pytest.raises(TrainError, match="'pair' is not a layer whose output can be read"):
        check_layer("pair", shapes, "distill.student_layer")


def test_a_layer_before_an_inplace_activation_gives_what_the_activation_has_not_touched():
    model, images = small(inplace=True), torch.randn(2, 3, 4, 4)
    convolved = model[0](images).detach()
    logits, features = watch(model, ["0"])(model, images)
    assert (convolved < 0).any()
    assert torch.equal(features["0"], convolved)
    assert torch.equal(logits, model(images))


def test_a_layer_that_the_network_overwrites_itself_is_refused():
    model = nn.Sequential(BasicBlock(3, 3), nn.Flatten(), nn.Linear(3 * 16, 2))  # its forward has `out += identity`
    shapes = layer_shapes(model, 4)
    assert "0.bn1" in shapes
    with pytest.raises(TrainError, match="'0.bn2' is not a layer whose output can be read"):
        check_layer("0.bn2", shapes, "distill.student_layer")
    with pytest.raises(TrainError, match="overwrites the output of the layer '0.bn2'"):
        watch(model, ["0.bn2"])(model, torch.randn(2, 3, 4, 4))


def test_of_a_module_that_runs_twice_the_last_output_counts():
    model = nn.Sequential(BasicBlock(3, 3), nn.Flatten(), nn.Linear(3 * 16, 2))
    assert list(layer_shapes(model, 4))[-5:] == ["0.relu", "0", "1", "2", PENULTIMATE]
    features = watch(model, ["0.relu", "0"])(model, torch.randn(2, 3, 4, 4)).features
    assert torch.equal(features["0.relu"], features["0"])


def test_penultimate_is_the_last_layers_input_averaged_over_positions():
    flat = small()
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(watch(flat, [PENULTIMATE])(flat, images).features[PENULTIMATE], flat[:4](images))
    squeeze = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = watch(squeeze, [PENULTIMATE])(squeeze, images).features[PENULTIMATE]
    torch.testing.assert_close(found, squeeze[0](images).sum((2, 3)) / 16)
    assert layer_shapes(squeeze, 4)[PENULTIMATE] == (4,)


def test_features_are_in_the_graph_of_the_logits():
    model = small()
    logits, features = watch(model, ["1"])(model, torch.randn(2, 3, 4, 4))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), features["1"])  # mean over 2x2 blocks, then a weight
    by_hand = model[4].weight[0].view(1, 4, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    torch.testing.assert_close(gradient, by_hand.expand(2, -1, -1, -1).detach())


def test_nothing_is_left_behind_after_a_call():
    model = small()
    run = watch(model, ["0", PENULTIMATE])
    outputs = run(model, torch.randn(2, 3, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    feature = weakref.ref(outputs.features["0"])
    del outputs
    gc.collect()
    assert feature() is None


def test_a_failed_call_leaves_no_hook_either():
    model = small()
    with pytest.raises(RuntimeError):
        watch(model, ["0"])(model, torch.randn(2, 7, 4, 4))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_wrapper_around_the_model_may_run_instead_of_it():
    model, images = small(), torch.randn(2, 3, 4, 4)
    features = watch(model, ["0"])(nn.Sequential(model), images).features
    assert torch.equal(features["0"], model[0](images))


def test_a_layer_that_does_not_run_is_named():
    model = small()
    model.add_module("aside", nn.Identity())
    with pytest.raises(TrainError, match="the layer 'aside' did not run"):
        watch(model, ["aside"])(nn.Sequential(*model[:5]), torch.randn(2, 3, 4, 4))


def test_half_precision_gives_float32_logits_and_features_as_computed():
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, features = watch(model, ["0"])(model, torch.randn(2, 3, 4, 4))
    assert logits.dtype == torch.float32
    assert features["0"].dtype == torch.bfloat16


def test_without_layers_the_network_is_left_as_it_is():
    model = small(inplace=True)
    assert watch(model, [])(model, torch.zeros(2, 3, 4, 4)).features == {}
    assert model[1].inplace


def test_a_teacher_of_logits_only_is_refused_where_features_are_compared():
    onnx = nn.Identity()
    onnx.logits_only = True
    with pytest.raises(TrainError, match="distill.teacher: hints compares inner features, but this teacher gives logits only"):
        needs_features(onnx, "hints")
    teacher = small()
    assert needs_features(teacher, "hints") is teacher

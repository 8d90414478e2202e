from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toolchain.errors import DataError, RecipeError, TrainError
from toolchain.models import create_model
from toolchain.models.weights import check_state, replace_head
from toolchain.recipe.schema import TorchModel


def cfg(**fields):
    return TorchModel(**{"arch": "resnet18", "width": 0.125, **fields})


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(5)
    model = create_model(cfg(), 10)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "wrapped.pth")
    return model


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "wrapped.pth"])
def test_weights_on_disk_become_the_networks(tmp_path, trained, name):
    loaded = create_model(cfg(weights=str(tmp_path / name)), 10)
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True))


def test_weights_for_another_number_of_classes_are_said_so_plainly(tmp_path, trained):
    with pytest.raises(TrainError, match="these weights are for 10 classes, the dataset has 100"):
        create_model(cfg(weights=str(tmp_path / "w.pth")), 100)


def test_weights_of_another_width_name_the_first_tensor_that_differs(tmp_path, trained):
    with pytest.raises(TrainError, match=r"conv1.weight has shape \(8, 3, 3, 3\), the network needs \(16, 3, 3, 3\)"):
        create_model(cfg(width=0.25, weights=str(tmp_path / "w.pth")), 10)


def test_weights_of_another_network_name_what_is_missing_and_what_is_too_much(tmp_path, trained):
    with pytest.raises(TrainError, match=r"missing there \(first: features.0.weight\).*unknown to it \(first: conv1.weight"):
        create_model(cfg(arch="vgg11", weights=str(tmp_path / "w.pth")), 10)


def test_missing_truncated_and_empty_files_are_data_errors(tmp_path, trained):
    with pytest.raises(DataError, match="absent.pth does not exist"):
        create_model(cfg(weights=str(tmp_path / "absent.pth")), 10)
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path / name
        for content in (path.read_bytes()[:5000], b""):
            path.write_bytes(content)
            with pytest.raises(DataError, match=name):
                create_model(cfg(weights=str(path)), 10)


class Unwanted:
    pass


def test_a_pickled_object_is_not_loaded(tmp_path):
    torch.save(Unwanted(), tmp_path / "object.pth")
    with pytest.raises(DataError, match="Python objects beside tensors"):
        create_model(cfg(weights=str(tmp_path / "object.pth")), 10)
    torch.save({"epoch": 3}, tmp_path / "no_state.pth")
    with pytest.raises(DataError, match="holds no state dict"):
        create_model(cfg(weights=str(tmp_path / "no_state.pth")), 10)


def test_torchvisions_weights_fit_its_own_form_only():
    with pytest.raises(RecipeError, match="form imagenet and width 1 only, found form cifar and width 0.125"):
        create_model(cfg(weights="torchvision"), 10)


def test_without_a_network_torchvisions_weights_are_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(DataError, match="could not be downloaded from https://.*no route"):
        create_model(TorchModel(arch="squeezenet1_1", form="imagenet", weights="torchvision"), 10)


def test_only_the_head_starts_afresh_when_the_classes_differ():
    torch.manual_seed(0)
    ours, theirs = create_model(cfg(), 10), create_model(cfg(), 1000)
    state = replace_head(ours, theirs.state_dict(), 10)
    check_state(ours, state, "x")
    assert torch.equal(state["fc.weight"], ours.fc.weight) and state["fc.bias"].shape == (10,)
    assert torch.equal(state["conv1.weight"], theirs.conv1.weight)


def test_old_checkpoints_without_batch_counts_are_accepted():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    check_state(model, state, "x")
    model.load_state_dict(state)

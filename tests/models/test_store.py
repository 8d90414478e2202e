import json

import pytest
import torch

from toolchain.errors import TrainError
from toolchain.models import create_model
from toolchain.models.fold import fold_batchnorm
from toolchain.models.store import load_architecture, load_model, save_model
from toolchain.recipe.schema import TorchModel

CFG = TorchModel(arch="resnet18", width=0.125, weights="somewhere.pth")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def architecture(**fields):
    return {"model": CFG.model_dump(mode="json"), "num_classes": 10, "pruned": None, "folded": False, **fields}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create_model(CFG.model_copy(update={"weights": None}), 10)
    model(torch.randn(8, 3, 32, 32))  # BatchNorm statistics away from their start
    return model.eval()


def test_a_network_comes_back_as_it_was_in_eval_mode_and_without_its_first_weights(tmp_path, model):
    save_model(tmp_path, model, architecture())
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "model.safetensors"]


def test_channels_last_weights_are_saved_as_well(tmp_path, model):
    save_model(tmp_path, model.to(memory_format=torch.channels_last), architecture())
    assert torch.allclose(load_model(tmp_path)(IMAGES), model(IMAGES), atol=1e-6)


def test_a_folded_network_is_folded_before_its_weights_are_loaded(tmp_path, model):
    folded = fold_batchnorm(model)
    save_model(tmp_path, folded, architecture(folded=True))
    assert torch.equal(load_model(tmp_path)(IMAGES), folded(IMAGES))


def test_a_pruned_network_is_pruned_again_before_its_weights_are_loaded(tmp_path, model):
    prune = pytest.importorskip("toolchain.prune")
    from toolchain.recipe.schema import Channels

    pruned, history = prune.prune(model, Channels(method="channels", ratio=0.5, round_to=4), 32)
    save_model(tmp_path, pruned, architecture(pruned=history))
    assert json.loads((tmp_path / "architecture.json").read_text())["pruned"]
    assert torch.equal(load_model(tmp_path)(IMAGES), pruned.eval()(IMAGES))


def test_saving_twice_gives_the_same_bytes(tmp_path, model):
    for name in ("a", "b"):
        save_model(tmp_path / name, model, architecture())
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_truncated_or_missing_file_is_named(tmp_path, model):
    save_model(tmp_path, model, architecture())
    path = tmp_path / "model.safetensors"
    for content in (path.read_bytes()[:-100], b""):
        path.write_bytes(content)
        with pytest.raises(TrainError, match="model.safetensors: is not a whole safetensors file"):
            load_model(tmp_path)
    path.unlink()
    with pytest.raises(TrainError, match="model.safetensors"):
        load_model(tmp_path)


def test_a_damaged_architecture_is_named(tmp_path, model):
    save_model(tmp_path, model, architecture())
    (tmp_path / "architecture.json").write_text("{}")
    with pytest.raises(TrainError, match="has no model, num_classes, pruned, folded"):
        load_architecture(tmp_path)
    (tmp_path / "architecture.json").unlink()
    with pytest.raises(TrainError, match="cannot be read"):
        load_model(tmp_path)


def test_a_network_that_only_an_import_knows_asks_for_it(tmp_path, model):
    save_model(tmp_path, model, architecture(model={**CFG.model_dump(mode="json"), "arch": "my_net"}))
    with pytest.raises(TrainError, match="needs --import again"):
        load_model(tmp_path)

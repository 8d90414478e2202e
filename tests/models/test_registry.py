import subprocess
import sys

import pytest

from toolchain.errors import RecipeError
from toolchain.models import LISTED, MODELS, create_model, import_models
from toolchain.recipe.schema import ARCHITECTURES, TorchModel

OWN = """
from torch import nn
def tiny(num_classes, form, width):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
def stubborn(num_classes, form, width):
    raise ValueError("no")
MODELS = {"tiny": tiny, "stubborn": stubborn}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name in set(MODELS) - set(LISTED):
        monkeypatch.delitem(MODELS, name)
    (tmp_path / "my_nets.py").write_text(OWN)
    yield tmp_path / "my_nets.py"
    for name in set(MODELS) - set(LISTED):
        del MODELS[name]


def cfg(arch, **fields):
    return TorchModel.model_validate({"arch": arch, **fields}, context={"architectures": ("tiny", "stubborn", arch)})


def test_every_architecture_a_recipe_can_name_has_a_constructor_and_the_other_way_round():
    assert LISTED == ARCHITECTURES


def test_importing_the_room_does_not_import_torch():
    code = "import sys, toolchain.models; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_an_imported_network_is_constructed_by_its_name(own):
    assert list(import_models(own)) == ["tiny", "stubborn"]
    model = create_model(cfg("tiny"), 7, image_size=8)
    assert sum(p.numel() for p in model.parameters()) == (4 * 27 + 4) + (7 * 4 + 7)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="'resnet19' is not known, did you mean 'resnet1?8'"):
        create_model(cfg("resnet19"), 10)


def test_a_constructor_that_fails_is_named_with_its_arguments(own):
    import_models(own)
    with pytest.raises(RecipeError, match=r"stubborn: its constructor failed when called with \(num_classes=7.*no"):
        create_model(cfg("stubborn"), 7)


def test_a_missing_file_a_broken_file_and_a_file_without_models_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="there is no such file"):
        import_models(tmp_path / "absent.py")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(RecipeError, match="running it failed: ZeroDivisionError"):
        import_models(broken)
    broken.write_text("MODELS = ['tiny']")
    with pytest.raises(RecipeError, match="expected MODELS"):
        import_models(broken)


def test_an_imported_network_may_not_take_the_name_of_a_listed_one(tmp_path):
    (tmp_path / "nets.py").write_text("MODELS = {'vgg11': print}")
    with pytest.raises(RecipeError, match="named vgg11; choose another name"):
        import_models(tmp_path / "nets.py")
    assert MODELS["vgg11"] is not print


def test_an_image_size_that_does_not_fit_is_named_before_training():
    with pytest.raises(RecipeError, match="vgg11: cannot take images of 8x8 pixels"):
        create_model(cfg("vgg11", width=0.125), 10, image_size=8)


def test_a_network_with_the_wrong_number_of_outputs_is_named(tmp_path, own):
    own.write_text(OWN.replace("nn.Linear(4, num_classes)", "nn.Linear(4, 3)"))
    import_models(own)
    with pytest.raises(RecipeError, match=r"tiny: gives shape \(1, 3\) for one image, expected logits of shape \(1, 7\)"):
        create_model(cfg("tiny"), 7, image_size=8)

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolchain.data.preprocess import Preprocess
from toolchain.errors import DataError

PLAIN = Preprocess(4, None, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))


def test_normalize_is_value_over_255_minus_mean_over_std_per_channel_and_channels_come_first():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, 1, 2] = (255, 51, 102)
    result = PLAIN.normalize(images)
    assert result.shape == (1, 3, 4, 4) and result.dtype == np.float32
    assert result[0, :, 0, 0].tolist() == [-1.0, -1.0, 0.0]
    assert result[0, :, 1, 2] == pytest.approx([(1 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, 0.4])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.01, 2))
def test_normalize_equals_the_same_float32_arithmetic_bit_for_bit(seed, mean, std):
    images = np.random.default_rng(seed).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    arithmetic = (images.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    result = Preprocess(5, None, (mean,) * 3, (std,) * 3).normalize(images)
    assert np.array_equal(result, arithmetic.transpose(0, 3, 1, 2))


def test_without_resize_an_image_becomes_the_square_whatever_its_shape():
    wide = np.zeros((2, 10, 3), np.uint8)
    wide[:, 5:] = 200
    result = PLAIN.geometry(wide)
    assert result.shape == (4, 4, 3)
    assert result[0, 0].tolist() == [0, 0, 0] and result[0, 3].tolist() == [200, 200, 200]


def test_with_resize_the_short_side_is_scaled_and_the_centre_is_cropped():
    stripes = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None] * 20, 6, axis=0).repeat(3, axis=2)  # 6 high, 12 wide
    result = Preprocess(4, 6, (0, 0, 0), (1, 1, 1)).geometry(stripes)  # the short side is 6 already: only the crop acts
    assert result[0, :, 0].tolist() == [4 * 20, 5 * 20, 6 * 20, 7 * 20]  # columns 4 to 7 of 12


def test_the_crop_is_where_torchvision_crops():
    transforms = pytest.importorskip("torchvision.transforms")
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    theirs = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(17)])(Image.fromarray(image))
    assert np.array_equal(Preprocess(17, 24, (0, 0, 0), (1, 1, 1)).geometry(image), np.asarray(theirs))


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(PLAIN.geometry(image), image)


def test_it_comes_back_from_its_file_as_it_was(tmp_path):
    original = Preprocess(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    original.save(tmp_path / "preprocess.json")
    assert Preprocess.load(tmp_path / "preprocess.json") == original
    assert [path.name for path in tmp_path.iterdir()] == ["preprocess.json"]
    assert json.loads((tmp_path / "preprocess.json").read_text())["layout"] == "NCHW"


def test_a_missing_field_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(DataError, match="'std'"):
        Preprocess.from_json({"image_size": 4, "resize": None, "mean": [0, 0, 0], "interpolation": "bilinear"})
    with pytest.raises(DataError, match="absent.json"):
        Preprocess.load(tmp_path / "absent.json")
    with pytest.raises(DataError, match="'lanczos', expected bilinear"):
        Preprocess.from_json({**PLAIN.to_json(), "interpolation": "lanczos"})

from pathlib import Path

import numpy as np
import pytest

from toolchain.commands import run_calib
from toolchain.data import load_dataset
from toolchain.data.calibration import balanced_order, calibration_images, check_disjoint, draw_calibration
from toolchain.data.calibration_set import read_calibration_set, write_calibration_set
from toolchain.data.dataset import split_dataset
from toolchain.data.preprocess import Preprocess
from toolchain.data.source import Loaded, Source
from toolchain.errors import DataError
from toolchain.recipe.schema import Digits

SHIPPED = Path(__file__).parents[2] / "calib_data" / "digits"


@pytest.fixture(scope="module")
def digits():
    return load_dataset(Digits(source="digits"), [])


def test_any_first_part_of_the_order_is_balanced():
    labels = np.array([0] * 3 + [1] * 10 + [2] * 10)
    order = balanced_order(labels, seed=0)
    assert sorted(order.tolist()) == list(range(23))
    assert np.bincount(labels[order[:9]]).tolist() == [3, 3, 3]
    assert np.bincount(labels[order[:15]]).tolist() == [3, 6, 6]  # class 0 has no more to give


def test_a_draw_is_from_train_balanced_and_follows_the_seed(digits):
    images, labels = draw_calibration(digits, 100, seed=0)
    assert images.shape == (100, 32, 32, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [10] * 10
    train = {image.tobytes() for image in digits.train.images(range(len(digits.train)))}
    assert all(image.tobytes() in train for image in images)
    assert np.array_equal(draw_calibration(digits, 100, seed=0)[0], images)
    assert not np.array_equal(draw_calibration(digits, 100, seed=1)[0], images)


def test_labels_belong_to_their_images(digits):
    images, labels = draw_calibration(digits, 50, seed=3)
    of = dict(zip((i.tobytes() for i in digits.train.images(range(len(digits.train)))), digits.train.labels, strict=True))
    assert [of[image.tobytes()] for image in images] == labels.tolist()


def test_more_than_train_has_is_refused_with_both_numbers(digits):
    with pytest.raises(DataError, match="train has 1294 images .* but 2000 are asked for"):
        draw_calibration(digits, 2000, seed=0)
    assert len(draw_calibration(digits, 1294, seed=0)[0]) == 1294


def test_the_command_that_makes_a_set_names_the_option_it_was_given(tmp_path):
    with pytest.raises(DataError, match=r"99999 are asked for calibration; ask for fewer \(--images\)"):
        run_calib(SHIPPED.parents[1] / "recipes" / "vgg11_int8.yaml", images=99999, out=tmp_path / "set")


def with_copies():
    """Ten images; test holds two, one of which stands in train too."""
    pixels = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    train = Source(pixels.__getitem__, np.arange(8) % 2, ("a", "b"), "train")
    held = np.stack([pixels[5], np.full((8, 8, 3), 99, np.uint8)])
    test = Source(held.__getitem__, np.array([1, 0]), ("a", "b"), "test")
    cfg = Digits(source="digits", image_size=8, val_fraction=0.2)
    return split_dataset("x", Loaded(train, test), Preprocess(8, None, (0, 0, 0), (1, 1, 1)), cfg)


def test_a_training_image_that_is_also_in_test_is_passed_over():
    dataset = with_copies()
    twins = int((dataset.train.images(range(len(dataset.train)))[:, 0, 0, 0] == 5).sum())
    images, _ = draw_calibration(dataset, len(dataset.train) - twins, seed=0)
    assert 5 not in images[:, 0, 0, 0]
    check_disjoint(images, dataset.test)


def test_a_test_image_among_the_calibration_images_is_an_error(digits):
    check_disjoint(digits.train.images(range(20)), digits.test)
    mixed = np.concatenate([digits.train.images(range(20)), digits.test.images([300])])
    with pytest.raises(DataError, match="one of the 21 images is test image 300"):
        check_disjoint(mixed, digits.test)


def test_the_shipped_set_is_256_digits_of_train_none_of_them_in_test(digits):
    images, source = calibration_images(digits, 256, seed=0, folder=SHIPPED)
    assert images.shape == (256, 32, 32, 3) and source == "set digits (digits train)"
    manifest = read_calibration_set(SHIPPED)[1]
    assert manifest["split_sha256"] == digits.split_sha256
    assert set(manifest["class_balance"].values()) == {25, 26}


def test_the_shipped_set_can_be_drawn_again_from_the_digits(digits, tmp_path):
    images, labels = draw_calibration(digits, 256, seed=0)
    assert np.array_equal(images, read_calibration_set(SHIPPED)[0])
    manifest = write_calibration_set(tmp_path, images, labels, digits)
    assert manifest["image_sha256"] == read_calibration_set(SHIPPED)[1]["image_sha256"]


def test_a_set_smaller_than_asked_says_how_many_it_has(digits):
    with pytest.raises(DataError, match="holds 256 images, but quantize.calibration.images asks for 512"):
        calibration_images(digits, 512, seed=0, folder=SHIPPED)


def test_a_set_with_a_test_image_is_refused(digits, tmp_path):
    write_calibration_set(tmp_path, digits.test.images([4, 7]), digits.test.labels[[4, 7]], digits)
    with pytest.raises(DataError, match="is test image 4"):
        calibration_images(digits, 2, seed=0, folder=tmp_path)

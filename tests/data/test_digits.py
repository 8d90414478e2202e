import numpy as np
import pytest

from toolchain.data import load_dataset
from toolchain.recipe.schema import Digits


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(Digits(source="digits"), [])


def test_1797_images_are_split_four_to_one_and_then_nine_to_one(dataset):
    # round(0.2 * 1797) = 359; round(0.1 * 1438) = 144
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (1294, 144, 359)
    assert dataset.classes == tuple("0123456789")


def test_every_class_is_in_every_part_about_equally(dataset):
    for part in (dataset.train, dataset.val, dataset.test):
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() > 0.9 * len(part) / 10 and counts.max() < 1.1 * len(part) / 10


def test_no_image_is_in_two_parts(dataset):
    rows = np.concatenate([dataset.train.rows, dataset.val.rows, dataset.test.rows])
    assert len(set(rows.tolist())) == 1797


def test_sixteen_is_white_and_the_three_channels_are_equal(dataset):
    images = dataset.train.images([0, 1, 2])
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images[..., 0], images[..., 2])
    assert dataset.train.store.source.read(0).shape == (8, 8, 3)
    assert max(dataset.train.store.source.read(i).max() for i in range(20)) == 255


def test_the_default_statistics_are_those_of_the_images(dataset):
    everything = dataset.train.store.array / 255
    assert everything.mean() == pytest.approx(dataset.preprocess.mean[0], abs=5e-4)
    assert everything.std() == pytest.approx(dataset.preprocess.std[0], abs=5e-4)


def test_the_split_hash_follows_the_seed_and_nothing_else(dataset):
    assert load_dataset(Digits(source="digits"), []).split_sha256 == dataset.split_sha256
    assert load_dataset(Digits(source="digits", split_seed=1), []).split_sha256 != dataset.split_sha256
    assert load_dataset(Digits(source="digits", image_size=16), []).split_sha256 == dataset.split_sha256

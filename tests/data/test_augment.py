import numpy as np
import pytest

from toolchain.data.augment import augmented, draw_epoch, is_fixed_view
from toolchain.recipe.data import Augment, Jitter


def one(values) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8)[None, :, :, None], 3, axis=3)


def test_the_centre_of_the_padding_changes_nothing():
    image = one([[1, 2], [3, 4]])
    assert np.array_equal(augmented(image, np.array([1]), np.array([1]), np.array([False]), 1), image)


def test_a_crop_at_the_corner_brings_in_black():
    result = augmented(one([[1, 2], [3, 4]]), np.array([0]), np.array([0]), np.array([False]), 1)
    assert result[0, :, :, 0].tolist() == [[0, 0], [0, 1]]
    result = augmented(one([[1, 2], [3, 4]]), np.array([2]), np.array([1]), np.array([False]), 1)
    assert result[0, :, :, 0].tolist() == [[3, 4], [0, 0]]


def test_the_mirror_swaps_columns_of_the_chosen_images_only():
    two = np.concatenate([one([[1, 2], [3, 4]])] * 2)
    result = augmented(two, np.zeros(2, int), np.zeros(2, int), np.array([True, False]), 0)
    assert result[0, :, :, 0].tolist() == [[2, 1], [4, 3]]
    assert result[1, :, :, 0].tolist() == [[1, 2], [3, 4]]


def test_channels_stay_where_they_are():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    result = augmented(image, np.array([0]), np.array([0]), np.array([True]), 0)
    assert result[0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]


def test_draws_follow_seed_and_epoch():
    augment = Augment(crop_padding=2, flip=True)
    a, b, c = (draw_epoch(50, augment, *at) for at in ((0, 0), (0, 0), (0, 1)))
    assert np.array_equal(a.order, b.order) and np.array_equal(a.top, b.top) and np.array_equal(a.mirror, b.mirror)
    assert not np.array_equal(a.order, c.order)
    assert sorted(a.order.tolist()) == list(range(50))


def test_corners_fill_the_range_and_half_of_the_images_are_mirrored():
    draws = draw_epoch(10_000, Augment(crop_padding=2, flip=True), 0, 0)
    assert set(draws.top.tolist()) == set(draws.left.tolist()) == {0, 1, 2, 3, 4}
    assert draws.mirror.mean() == pytest.approx(0.5, abs=0.02)  # four standard errors


def test_without_flip_nothing_is_mirrored():
    assert not draw_epoch(100, Augment(crop_padding=0, flip=False), 0, 0).mirror.any()


def test_the_view_is_fixed_without_crop_mirror_and_jitter_only():
    assert is_fixed_view(Augment(crop_padding=0, flip=False))
    assert not is_fixed_view(Augment(crop_padding=1, flip=False))
    assert not is_fixed_view(Augment(crop_padding=0, flip=True))
    assert not is_fixed_view(Augment(crop_padding=0, flip=False, jitter=Jitter()))


def test_jitter_is_drawn_after_the_rest_so_that_the_rest_stays():
    plain, coloured = (draw_epoch(30, Augment(jitter=jitter), 1, 2) for jitter in (None, Jitter()))
    assert plain.jitter is None and coloured.jitter.shape == (30, 4)
    for name in ("order", "top", "left", "mirror"):
        assert np.array_equal(getattr(plain, name), getattr(coloured, name))
    assert not np.array_equal(coloured.jitter, draw_epoch(30, Augment(jitter=Jitter()), 1, 3).jitter)

import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torchvision.transforms import functional as reference

from toolchain.data import batches, load_dataset
from toolchain.data.jitter import draw_jitter, jittered, jittered_batches
from toolchain.recipe.data import Digits, Jitter

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
NEUTRAL = (1.0, 1.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def digits():
    return load_dataset(Digits(source="digits"), [])


def changed(images, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    return jittered(images, np.array([(brightness, contrast, saturation, hue)] * len(images)))


def pixel(rgb, **factors) -> list[int]:
    """One colour, beside nothing else, after the jitter."""
    return changed(np.full((1, 2, 2, 3), rgb, np.uint8), **factors)[0, 0, 0].tolist()


def test_factors_of_one_and_a_hue_of_zero_change_nothing():
    assert np.array_equal(changed(COLOURS), COLOURS)


def test_a_zero_section_draws_the_identity():
    factors = draw_jitter(5, Jitter(brightness=0, contrast=0, saturation=0, hue=0), 0)
    assert factors.tolist() == [list(NEUTRAL)] * 5


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.3, 1.4])
@pytest.mark.parametrize(("name", "enhance"), [
    ("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)])
def test_one_factor_agrees_with_pillow_to_a_grey_level(name, enhance, factor):
    ours = changed(COLOURS, **{name: factor})
    for image, result in zip(COLOURS, ours, strict=True):
        theirs = np.asarray(enhance(Image.fromarray(image)).enhance(factor))
        assert np.abs(theirs.astype(int) - result.astype(int)).max() <= 1


@pytest.mark.parametrize("hue", [-0.5, -0.1, 0.03, 0.25, 0.5])
def test_a_hue_shift_agrees_with_torchvision_to_a_grey_level(hue):
    theirs = reference.adjust_hue(torch.from_numpy(COLOURS).permute(0, 3, 1, 2), hue).permute(0, 2, 3, 1).numpy()
    assert np.abs(theirs.astype(int) - changed(COLOURS, hue=hue).astype(int)).max() <= 1


def test_all_four_in_their_order_agree_with_torchvision_in_floating_point():
    factors = draw_jitter(6, Jitter(), 3)
    ours = jittered(COLOURS, factors)
    for image, result, (brightness, contrast, saturation, hue) in zip(COLOURS, ours, factors.tolist(), strict=True):
        theirs = torch.from_numpy(image).permute(2, 0, 1) / 255
        for adjust, factor in ((reference.adjust_brightness, brightness), (reference.adjust_contrast, contrast),
                               (reference.adjust_saturation, saturation), (reference.adjust_hue, hue)):
            theirs = adjust(theirs, factor)
        assert np.abs(255 * theirs.permute(1, 2, 0).numpy() - result).max() <= 1


def test_brightness_multiplies_and_clips():
    assert pixel((100, 200, 0), brightness=1.4) == [140, 255, 0]


def test_contrast_moves_away_from_the_mean_grey_of_the_image_alone():
    image = np.zeros((2, 1, 2, 3), np.uint8)
    image[0, 0, 0] = 100  # grey, mean 50: 1.5 * 100 - 0.5 * 50 = 125, and -25 is clipped
    image[1] = 255  # the neighbour in the batch
    result = changed(image, contrast=1.5)
    assert result[0, 0].tolist() == [[125] * 3, [0] * 3]
    assert np.array_equal(result[1], image[1])


def test_saturation_zero_is_the_grey_of_itu_601():
    assert pixel((200, 100, 50), saturation=0.0) == [124] * 3  # 59.8 + 58.7 + 5.7 = 124.2


def test_a_third_of_a_turn_makes_green_of_red_and_half_a_turn_the_complement():
    assert pixel((200, 0, 0), hue=1 / 3) == [0, 200, 0]
    assert pixel((200, 0, 0), hue=-1 / 3) == [0, 0, 200]
    assert pixel((200, 0, 0), hue=0.5) == pixel((200, 0, 0), hue=-0.5) == [0, 200, 200]
    assert pixel((200, 50, 50), hue=1 / 6) == [200, 200, 50]  # V and chroma stay: yellow
    assert pixel((200, 100, 0), hue=0.25) == [0, 200, 0]  # orange at 30 degrees becomes 120 degrees: green
    assert pixel((90, 90, 90), hue=0.2) == [90, 90, 90]


def test_factors_fill_their_ranges():
    factors = draw_jitter(4000, Jitter(brightness=1.5, contrast=0.4, saturation=0.2, hue=0.1), 0)
    low, high = factors.min(axis=0), factors.max(axis=0)
    assert low == pytest.approx([0, 0.6, 0.8, -0.1], abs=0.01)  # 1 - 1.5 stops at 0
    assert high == pytest.approx([2.5, 1.4, 1.2, 0.1], abs=0.01)
    assert factors.mean(axis=0) == pytest.approx([1.25, 1, 1, 0], abs=0.05)


def test_the_draw_of_an_image_depends_on_the_seed_and_not_on_how_many_there_are():
    assert np.array_equal(draw_jitter(10, Jitter(), 0)[:4], draw_jitter(4, Jitter(), 0))
    assert not np.array_equal(draw_jitter(4, Jitter(), 0), draw_jitter(4, Jitter(), 1))


def test_the_realisation_is_frozen_for_every_machine():
    # RandomState(0).random_sample() begins 0.5488135, 0.71518937, 0.60276338, 0.54488318 (numpy's manual)
    expected = [0.6 + 0.8 * 0.5488135, 0.6 + 0.8 * 0.71518937, 0.6 + 0.8 * 0.60276338, -0.1 + 0.2 * 0.54488318]
    assert draw_jitter(1, Jitter(), 0)[0] == pytest.approx(expected, rel=1e-6)


def test_batches_of_one_and_of_64_show_the_same_pixels_and_not_the_clean_ones(digits):
    def pixels(batch_size):
        found = list(jittered_batches(digits.test, digits.preprocess, batch_size, Jitter(), 5))
        return np.concatenate([images for images, _ in found]), np.concatenate([labels for _, labels in found])

    (one, labels), (many, _) = pixels(1), pixels(64)
    clean = np.concatenate([images for images, _ in batches(digits.test, digits.preprocess, 64)])
    assert one.dtype == np.float32 and np.array_equal(labels, digits.test.labels)
    assert one.tobytes() == many.tobytes()
    assert all(not np.array_equal(a, b) for a, b in zip(clean, many, strict=True))


def test_random_colours_are_the_same_alone_and_in_a_batch():
    images = RANDOM.integers(0, 256, (40, 33, 33, 3), dtype=np.uint8)
    factors = draw_jitter(40, Jitter(), 1)
    alone = [jittered(images[i : i + 1], factors[i : i + 1])[0] for i in range(40)]
    assert np.array_equal(np.stack(alone), jittered(images, factors))


def test_no_images_give_no_images():
    assert jittered(COLOURS[:0], draw_jitter(0, Jitter(), 0)).shape == (0, 16, 16, 3)


def test_ten_thousand_small_images_take_seconds():
    images, factors = RANDOM.integers(0, 256, (500, 32, 32, 3), dtype=np.uint8), draw_jitter(500, Jitter(), 0)
    start = time.process_time()
    jittered(images, factors)
    assert (time.process_time() - start) * 20 < 20  # measured: 1 s for 10,000 in batches of 100

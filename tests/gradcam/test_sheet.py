import numpy as np
import pytest
import torch
from PIL import Image
from train_data import small_net, squares

from toolchain.gradcam.pictures import draw_networks
from toolchain.gradcam.sheet import (
    MARGIN,
    PAPER,
    choose,
    color_map,
    draw_sheet,
    enlarge,
    overlay,
    sheet_size,
    stretch,
    tile_size,
    write_sheet,
)


def grey(n=2, size=8, value=100):
    return np.full((n, size, size, 3), value, np.uint8)


def corner(n=2):
    """Maps whose evidence lies at the top left."""
    cams = np.zeros((n, 4, 4), np.float32)
    cams[:, 0, 0] = 1e-20
    return cams


def test_the_color_map_rises_in_lightness_from_black_to_pale_yellow():
    table = color_map()
    lightness = table @ [0.2126, 0.7152, 0.0722]
    assert table.shape == (256, 3) and (np.diff(lightness) > 0).all()
    assert table[0].tolist() == [0, 0, 4] and table[255].tolist() == [252, 255, 164]


def test_small_images_grow_by_whole_factors_and_large_ones_shrink():
    assert [tile_size(size) for size in (8, 28, 32, 64, 224, 512)] == [192, 196, 192, 192, 224, 192]
    two = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (enlarge(two, 6) == two.repeat(3, axis=0).repeat(3, axis=1)).all()
    assert (enlarge(grey(1, 8)[0], 4) == 100).all()


def test_a_map_is_stretched_to_its_own_zero_and_one():
    unit = stretch(corner()[0], 16)
    assert unit.shape == (16, 16) and unit.min() == 0 and unit.max() == 1 and unit[0, 0] == 1 and unit[15, 15] == 0
    assert (stretch(np.full((4, 4), 3.0, np.float32), 8) == 0).all()


def test_an_overlay_is_bright_where_the_map_is_and_grey_where_no_evidence_is():
    shown = overlay(grey(1, 16)[0], corner()[0])
    pale = 0.38 * 100 + 0.62 * np.array([252, 255, 164])
    dark = 0.38 * 100 + 0.62 * np.array([0, 0, 4])
    assert shown[0, 0].tolist() == pale.round().tolist() and shown[15, 15].tolist() == dark.round().tolist()
    assert (overlay(grey(1, 16)[0], np.zeros((4, 4), np.float32)) == 100).all()


def test_the_sheet_has_a_row_per_image_a_column_per_network_and_words(tmp_path):
    columns = {"teacher": corner(), "student": np.zeros((2, 4, 4), np.float32)}
    write_sheet(tmp_path / "gradcam.png", grey(), ["cat", "dog"], columns, {"student": ["cosine 0.00"] * 2})
    sheet = Image.open(tmp_path / "gradcam.png")
    assert sheet.size == sheet_size(2, 2, 192) == (2 * 32 + 3 * 192 + 2 * 20, 2 * 32 + 40 + 2 * (192 + 34) + 48)
    pixels, top = np.asarray(sheet), MARGIN + 40
    image, teacher, student = (pixels[top : top + 192, MARGIN + i * 212 :][:, :192] for i in range(3))
    assert (image == 100).all() and (student == 100).all()
    assert teacher[0, 0].sum() > 500 > 200 > teacher[-1, -1].sum()
    for column in range(3):  # header; and the words under the first picture of the image and the student
        assert (pixels[MARGIN : MARGIN + 30, MARGIN + column * 212 :][:, :192] != PAPER).any()
        below = pixels[top + 194 : top + 220, MARGIN + column * 212 :][:, :192]
        assert (below != PAPER).any() == (column != 1)
    assert [path.name for path in tmp_path.iterdir()] == ["gradcam.png"]


def test_a_long_name_stays_in_its_column():
    sheet = np.asarray(draw_sheet(grey(1), ["W" * 200], {"teacher": corner(1)}, {}))
    assert (sheet[:, MARGIN + 192 : MARGIN + 192 + 20] == PAPER).all()  # the gap beside it


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 4, 3]), (2, [0, 3]), (9, [0, 4, 3])])
def test_images_of_different_classes_are_chosen_the_first_of_each(count, expected):
    assert choose(np.array([0, 0, 5, 9, 5])[[0, 1, 0, 3, 2]], count).tolist() == expected


def test_networks_are_drawn_for_the_labels_of_the_test_set(tmp_path):
    data = squares(12)
    torch.manual_seed(0)
    draw_networks(tmp_path / "sheet.png", {"teacher": (small_net(), "2"), "student": (small_net(), "0")}, data.test,
                  data.preprocess, data.classes, count=8)
    assert Image.open(tmp_path / "sheet.png").size == sheet_size(3, 2, 192)  # three classes, two networks
    draw_networks(tmp_path / "asked.png", {"teacher": (small_net(), "2")}, data.test, data.preprocess, data.classes,
                  count=2, classes="teacher")
    assert Image.open(tmp_path / "asked.png").size == sheet_size(2, 1, 192)

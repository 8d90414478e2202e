import io

import numpy as np
import pytest
from PIL import Image

from toolchain.data.image import decode
from toolchain.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_png_comes_back_pixel_for_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), "x"), pixels)


def test_grey_is_repeated_and_transparency_dropped():
    grey = decode(encoded(Image.new("L", (2, 2), 77)), "x")
    assert grey.shape == (2, 2, 3) and (grey == 77).all()
    assert decode(encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 0))), "x")[0, 0].tolist() == [10, 20, 30]
    assert decode(encoded(Image.new("LA", (2, 2), (10, 0))), "x")[0, 0].tolist() == [10, 10, 10]


def test_a_palette_with_transparency_is_looked_up():
    palette = Image.new("RGB", (2, 2), (10, 20, 30)).quantize(4)
    assert decode(encoded(palette, transparency=0), "x")[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_grey_becomes_eight_bit_instead_of_white():
    sixteen = Image.fromarray(np.full((2, 2), 257 * 100, np.uint16))
    assert decode(encoded(sixteen), "x")[0, 0].tolist() == [100, 100, 100]


def test_cmyk_and_black_and_white_are_read():
    assert decode(encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "JPEG"), "x").shape == (2, 2, 3)
    assert (decode(encoded(Image.new("1", (2, 2), 1)), "x") == 255).all()


def test_a_truncated_image_and_a_text_file_are_named_with_what_pillow_said(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(DataError, match="train.parquet: row 7: the image is damaged .*truncated"):
        decode(whole[: len(whole) // 2], "train.parquet: row 7")
    (tmp_path / "note.jpg").write_text("not an image")
    with pytest.raises(DataError, match="note.jpg: is not an image"):
        decode(tmp_path / "note.jpg", str(tmp_path / "note.jpg"))

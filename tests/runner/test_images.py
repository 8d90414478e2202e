"""Images on a device are, bit for bit, what they are on the machine that built the engine, without Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, __version__

from toolchain.data.image import decode
from toolchain.data.preprocess import Preprocess
from toolchain.runner import images
from toolchain.runner.answers import Failed

RNG = np.random.default_rng(3)
PILLOW = int(__version__.partition(".")[0])
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Bit for bit; where an older Pillow takes its two passes in another order, one of 255 away."""
    apart = np.abs(found.astype(int) - expected).max(initial=0)
    return found.shape == expected.shape and apart <= (0 if PILLOW >= 13 else 1)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (33, 20), (224, 224), (300, 451), (1, 1), (640, 32), (70, 64)])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (1, 3), (256, 171)])
def test_resizing_is_pillows(height: int, width: int, size: tuple[int, int]) -> None:
    image = noise(height, width)
    expected = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    assert same(images.resized(image, *size), expected)


def test_resizing_is_pillows_whatever_the_sizes() -> None:
    for height, width, tall, wide in np.random.default_rng(7).integers(1, 60, (300, 4)).tolist():
        image = noise(height, width)
        expected = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
        assert same(images.resized(image, tall, wide), expected), (height, width, tall, wide)


@pytest.mark.parametrize("resize", [None, 24, 37])
def test_geometry_and_normalization_are_the_builders(resize: int | None) -> None:
    here = Preprocess(24, resize, MEAN, STD)
    for height, width in ((24, 24), (31, 55), (100, 40), (37, 37)):
        image = noise(height, width)
        found = images.geometry(image, here.to_json())
        assert same(found, here.geometry(image))
        assert np.array_equal(images.normalize(found[None], here.to_json()), here.normalize(found[None]))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "RGBA", "1"])
def test_every_kind_of_png_is_read_as_the_builder_reads_it(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 1 << 16, (6, 5), np.uint16))
    else:
        image = Image.fromarray(noise(6, 5)).convert(mode)
    image.save(tmp_path / "x.png")
    assert np.array_equal(images.decoded(tmp_path / "x.png"), decode(tmp_path / "x.png", "x"))


def test_without_pillow_there_are_ppm_and_npy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(3, 5)
    Image.fromarray(image).save(tmp_path / "x.ppm")
    np.save(tmp_path / "x.npy", image)
    (tmp_path / "x.jpg").write_bytes(b"")
    monkeypatch.setattr(images, "device_has", lambda module: False)
    for name in ("x.ppm", "x.npy"):
        assert np.array_equal(images.decoded(tmp_path / name), image)
    with pytest.raises(Failed, match=r"x.jpg: reading .jpg files needs Pillow.*\.ppm, or as \.npy"):
        images.decoded(tmp_path / "x.jpg")


@pytest.mark.parametrize(("name", "content"), [
    ("x.png", b"\x89PNG\r\n"), ("x.ppm", b"P6 2 2 255\n123"), ("x.ppm", b""), ("x.ppm", b"P5 1 1 255\n123"), ("x.ppm", b"P6 # endless"),
    ("x.npy", b"\x93NUMPY"), ("x.npy", b""), ("x.ppm", b"P6 0 0 255\n"), ("x.ppm", b"P6 a b 255\n"), ("absent.ppm", None),
])
def test_what_is_no_image_is_told_in_a_sentence(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Failed, match=name):
        images.decoded(tmp_path / name)


def test_an_array_of_another_kind_is_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4), np.float32))
    with pytest.raises(Failed, match=r"holds float32 \(3, 4, 4\), expected uint8 \(height, width, 3\)"):
        images.decoded(tmp_path / "x.npy")

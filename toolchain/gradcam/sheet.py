"""The picture sheet: a row per image, then its teacher's and its students' maps laid over it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from toolchain.files import write_bytes

TILE = 192  # about the width of a picture, pixels; a small image is enlarged by a whole factor
MARGIN, GAP, HEADER, CAPTION, LEGEND = 32, 20, 40, 34, 48
PAPER, INK, SOFT = (255, 255, 255), (23, 27, 34), (90, 100, 115)
# Nine anchors of the "inferno" colour map (Smith, van der Walt 2015, CC0): lightness rises evenly from black, so that
# it reads alike in grey and to the colour-blind.
ANCHORS = ((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84), (228, 90, 49), (249, 142, 9),
           (249, 203, 53), (252, 255, 164))
STRENGTH = 0.62  # share of the map's colour in an overlay; the rest is the image in grey
Pixels = NDArray[np.uint8]


def write_sheet(
    path: Path, images: Pixels, names: Sequence[str], columns: Mapping[str, NDArray[np.float32]],
    captions: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write `draw_sheet` as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    draw_sheet(images, names, columns, captions or {}).save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def draw_sheet(
    images: Pixels, names: Sequence[str], columns: Mapping[str, NDArray[np.float32]],
    captions: Mapping[str, Sequence[str]],
) -> Image.Image:
    """images: (n, S, S, 3) uint8. names: (n,) written under them. columns: header -> maps (n, h, w), in order; each
    map is stretched to its own [0, 1], for display only. captions: header -> (n,) lines under that column's pictures.
    """
    size = tile_size(images.shape[1])
    width, height = sheet_size(len(images), len(columns), size)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, header in enumerate(["image", *columns]):
        left = MARGIN + column * (size + GAP)
        _write(pen, left, MARGIN, header, size, 17, INK)
        for row, image in enumerate(images):
            top = MARGIN + HEADER + row * (size + CAPTION)
            if column == 0:
                picture, caption, colour = enlarge(image, size), names[row], INK
            else:
                picture = overlay(enlarge(image, size), columns[header][row])
                caption, colour = captions.get(header, [""] * len(images))[row], SOFT
            sheet.paste(Image.fromarray(picture), (left, top))
            _write(pen, left, top + size + 6, caption, size, 14, colour)
    _draw_legend(sheet, pen, size, width, height)
    return sheet


def choose(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions of at most `count` images: the first one of classes spread evenly over all that occur."""
    found, first = np.unique(labels, return_index=True)
    spread = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return first[spread].astype(np.int64)


def tile_size(image_size: int) -> int:
    """Pixels of a picture on the sheet: a whole multiple of a small image's, TILE or so of a large one's."""
    return image_size * max(1, round(TILE / image_size)) if image_size <= 2 * TILE else TILE


def sheet_size(rows: int, maps: int, size: int) -> tuple[int, int]:
    """(width, height) of a sheet in pixels."""
    return (2 * MARGIN + (1 + maps) * size + maps * GAP,
            2 * MARGIN + HEADER + rows * (size + CAPTION) + LEGEND)


def enlarge(image: Pixels, size: int) -> Pixels:
    """uint8 (S, S, 3) -> (size, size, 3): pixels as squares when it grows, averaged when it shrinks."""
    how = Image.Resampling.NEAREST if size >= image.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((size, size), how))


def overlay(image: Pixels, cam: NDArray[np.float32]) -> Pixels:
    """uint8 (S, S, 3): a map (h, w) in colour over the image in grey. A map without any evidence leaves it grey."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)[:, :, None].repeat(3, axis=2)
    if not cam.any():
        return grey.round().astype(np.uint8)
    colours = color_map()[(stretch(cam, image.shape[0]) * 255).round().astype(int)]
    return ((1 - STRENGTH) * grey + STRENGTH * colours).round().astype(np.uint8)


def stretch(cam: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """(size, size): a map (h, w) enlarged bilinearly, its least value 0 and its greatest 1; all 0 if it is constant."""
    low, high = float(cam.min()), float(cam.max())
    # Stretched first: PIL enlarges float32, in which raw maps may be too small to interpolate.
    unit = (cam.astype(np.float64) - low) / (high - low) if high > low else np.zeros(cam.shape)
    large = Image.fromarray(unit.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    wide = np.asarray(large, np.float64)
    spread = wide.max() - wide.min()
    return (wide - wide.min()) / spread if spread > 0 else np.zeros((size, size))


def color_map() -> NDArray[np.float64]:
    """(256, 3) RGB from 0 to 255, interpolated between the ANCHORS."""
    at = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(np.linspace(0, 1, 256), at, channel) for channel in np.array(ANCHORS, float).T], axis=1)


def _write(
    pen: ImageDraw.ImageDraw, left: int, top: int, text: str, width: int, points: int, colour: tuple[int, int, int]
) -> None:
    """One line, cut with an ellipsis where it is wider than its column."""
    font = ImageFont.load_default(points)
    short = text
    while short and pen.textlength(short if short == text else short + "…", font) > width:
        short = short[:-1]
    pen.text((left, top), text if short == text else short.rstrip() + "…", fill=colour, font=font)


def _draw_legend(sheet: Image.Image, pen: ImageDraw.ImageDraw, size: int, width: int, height: int) -> None:
    """A bar of the map's colours, as they look over a middle grey, in the column after the image's."""
    bar = ((1 - STRENGTH) * 128 + STRENGTH * color_map())[None].repeat(12, axis=0).round().astype(np.uint8)
    left, top = MARGIN + size + GAP, height - MARGIN - 30
    if left + size > width - MARGIN:
        return
    sheet.paste(Image.fromarray(bar).resize((size, 12), Image.Resampling.BILINEAR), (left, top))
    _write(pen, left, top + 14, "least", size, 12, SOFT)
    font = ImageFont.load_default(12)
    most = "most of its map"
    pen.text((left + size - pen.textlength(most, font), top + 14), most, fill=SOFT, font=font)

"""Encoded images to RGB arrays; whatever Pillow cannot read becomes a DataError that names the place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from toolchain.errors import DataError


def decode(content: bytes | Path, place: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a PNG, JPEG, … given as bytes or as a file.

    place: row or file for the message. Raises DataError with what Pillow said.
    """
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
            return np.array(to_rgb(image), dtype=np.uint8)
    except UnidentifiedImageError:
        raise DataError(f"{place}: is not an image that Pillow can read; replace or remove it") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{place}: the image is damaged ({error}); replace or remove it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB: grey is repeated, palettes are looked up, 16 bits become 8, transparency is dropped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        grey = np.asarray(image).astype(np.int64) // 257
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")

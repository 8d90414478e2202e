"""Images as an engine takes them: the same geometry and the same arithmetic, to the last bit, as where it was built.

Resizing is that of Pillow for 8-bit images, which a device may not have: two passes with a triangle filter as wide as
the image shrinks, its weights whole multiples of 2**-22, and what falls between two values goes to the nearer one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Failed, plain
from .probe import device_has

if TYPE_CHECKING:
    from numpy import ndarray

BITS = 22  # of a weight's fraction


def geometry(image: ndarray, preprocess: Mapping[str, Any]) -> ndarray:
    """uint8 (H, W, 3) of any size -> uint8 (S, S, 3): the short side to `resize` and the centre, or all to a square."""
    size, resize = preprocess["image_size"], preprocess["resize"]
    if preprocess.get("interpolation", "bilinear") != "bilinear":
        raise Failed(f"preprocess.json: found interpolation {preprocess['interpolation']!r}, expected 'bilinear'")
    if resize is None:
        return resized(image, size, size)
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = int(resize * height / short), int(resize * width / short)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return resized(image, tall, wide)[top : top + size, left : left + size]


def normalize(images: ndarray, preprocess: Mapping[str, Any]) -> ndarray:
    """uint8 (N, S, S, 3) -> float32 (N, 3, S, S) = (x / 255 - mean) / std, rounded after each float32 step."""
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(preprocess[name], np.float32)[:, None] for name in ("mean", "std"))
    table = (scaled[None] - mean) / std
    return np.ascontiguousarray(np.stack([table[c][images[..., c]] for c in range(3)], axis=1))


def resized(image: ndarray, height: int, width: int) -> ndarray:
    """uint8 (H, W, 3) -> uint8 (height, width, 3), in the order of passes that Pillow 13 takes.

    Older Pillows always begin with the width: for a few images of which much more height than width goes, some values
    are one of 255 away from theirs.
    """
    lost, narrowed = image.shape[0] - height, image.shape[1] - width
    if lost > max(0, 2 * narrowed):
        return np.ascontiguousarray(_wide(_tall(image, height), width))
    return np.ascontiguousarray(_tall(_wide(image, width), height))


def _tall(image: ndarray, height: int) -> ndarray:
    return image if image.shape[0] == height else _pass(image, height)


def _wide(image: ndarray, width: int) -> ndarray:
    return image if image.shape[1] == width else _pass(image.transpose(1, 0, 2), width).transpose(1, 0, 2)


def _pass(image: ndarray, size: int) -> ndarray:
    """uint8 (H, W, 3) -> uint8 (size, W, 3). Sums are whole and below 2**53, so float64 holds them exactly."""
    given, length = image.astype(np.float64), image.shape[0]
    scale = length / size
    reach = max(scale, 1.0)
    result = np.empty((size, *image.shape[1:]), np.uint8)
    for i in range(size):
        centre = (i + 0.5) * scale
        first, last = max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))
        weights = [max(0.0, 1.0 - abs((x - centre + 0.5) * (1.0 / reach))) for x in range(first, last)]
        total = sum(weights)
        whole = np.array([math.floor(0.5 + weight / total * (1 << BITS)) for weight in weights], np.float64)
        sums = np.tensordot(whole, given[first:last], axes=1) + (1 << (BITS - 1))
        result[i] = np.clip(sums.astype(np.int64) >> BITS, 0, 255)
    return result


def keys(images: ndarray) -> ndarray:
    """(N,) uint64: the first 8 bytes of the SHA-256 of each normalized image, which tells images apart in any order."""
    digests = (hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).digest() for image in images)
    return np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64)


def decoded(path: Path) -> ndarray:
    """uint8 (H, W, 3) of an image file. Raises Failed: it cannot be read, or this device has no Pillow to read it."""
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            image = np.load(str(path), allow_pickle=False)
        elif kind == ".ppm":
            image = _ppm(path.read_bytes())
        elif device_has("PIL"):
            image = _pillow(path)
        else:
            raise Failed(f"{path}: reading {kind or 'such'} files needs Pillow, which this device's Python lacks; give "
                         "it as .ppm, or as .npy of uint8 (height, width, 3)")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Failed(f"{path}: cannot be read as an image ({plain(str(error))[:200]})") from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise Failed(f"{path}: holds {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    return image


def _pillow(path: Path) -> ndarray:
    """Grey is repeated, palettes are looked up, 16 bits become 8, transparency is dropped."""
    from PIL import Image

    try:
        with Image.open(str(path)) as image:
            if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
                grey = np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            seen = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
            return np.array(seen.convert("RGB"), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _ppm(content: bytes) -> ndarray:
    """A binary portable pixmap: "P6 width height 255" and the bytes."""
    words: list[bytes] = []
    at = 0
    while len(words) < 4:
        while content[at : at + 1].isspace():
            at += 1
        if content[at : at + 1] == b"#":
            at = content.index(b"\n", at)
            continue
        end = at
        while content[end : end + 1] and not content[end : end + 1].isspace():
            end += 1
        if end == at:
            raise ValueError("its header is cut short")
        words.append(content[at:end])
        at = end
    width, height, largest = (int(word) for word in words[1:])
    if words[0] != b"P6" or largest != 255 or len(content) - at - 1 != 3 * width * height:
        raise ValueError("expected P6 with 255 as its largest value, and three bytes a pixel")
    return np.frombuffer(content, np.uint8, offset=at + 1).reshape(height, width, 3)

"""Calibration sets as files: `manifest.json` beside `images.npz`, or beside PNG and JPEG files.

manifest.json: format_version, source, split_sha256, preprocess (the geometry the pixels went through), images (their
number), class_balance (class -> number), then either `file` and `sha256` of the npz and image_sha256 (of each image's
uint8 bytes), or `files`: [{file, sha256, label}]; for image files the geometry is applied when they are read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.data.dataset import Dataset
from toolchain.data.image import decode
from toolchain.data.preprocess import Preprocess
from toolchain.errors import DataError, DigestMismatch
from toolchain.files import sha256_file, write_bytes, write_text

FORMAT_VERSION = 1
GEOMETRY = ("image_size", "resize", "interpolation")
REQUIRED = ("format_version", "source", "preprocess")


def write_calibration_set(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], dataset: Dataset
) -> dict[str, Any]:
    """Write images.npz (uint8 (n, S, S, 3), int64 (n,)) and its manifest; the same input gives the same bytes.

    Returns the manifest. The manifest is written last, so a half-written set is noticed when it is read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = npz_bytes({"images": images, "labels": labels.astype(np.int64)})
    write_bytes(folder / "images.npz", content)
    counts = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": f"{dataset.name} train",
        "split_sha256": dataset.split_sha256,
        "preprocess": {name: getattr(dataset.preprocess, name) for name in GEOMETRY},
        "images": len(images),
        "class_balance": dict(zip(dataset.classes, counts, strict=True)),
        "file": "images.npz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "image_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def read_calibration_set(
    folder: Path, preprocess: Preprocess | None = None
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """(uint8 (n, S, S, 3), manifest), after comparing every file with its SHA-256.

    preprocess: what the recipe does; a set with another geometry is refused. Raises DataError for a missing or damaged
    set, DigestMismatch for a file that is not the one the manifest describes.
    """
    manifest = _manifest(folder)
    found = {name: manifest["preprocess"].get(name) for name in GEOMETRY}
    if preprocess is not None:
        expected = {name: getattr(preprocess, name) for name in GEOMETRY}
        if found != expected:
            raise DataError(f"{folder}: its images were made with {_words(found)}, but the recipe has "
                            f"{_words(expected)}; make a set for this recipe with `toolchain calib`")
    geometry = Preprocess.from_json({**found, "mean": (0, 0, 0), "std": (1, 1, 1)})
    images = _from_npz(folder, manifest) if "file" in manifest else _from_files(folder, manifest, geometry)
    shape = (geometry.image_size, geometry.image_size, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
        raise DataError(f"{folder}: holds {images.dtype} images of shape {images.shape}, expected uint8 (n, "
                        f"{', '.join(map(str, shape))})")
    return images, manifest


def npz_bytes(arrays: dict[str, NDArray]) -> bytes:
    """A compressed .npz without timestamps, so equal arrays give equal bytes (numpy.savez writes the time)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; a calibration set is a folder with manifest.json, made by "
                        "`toolchain calib`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); make the set again with `toolchain calib`") from None
    missing = [key for key in REQUIRED if not isinstance(manifest, dict) or key not in manifest]
    if missing or not isinstance(manifest["preprocess"], dict) or not ("file" in manifest or "files" in manifest):
        raise DataError(f"{path}: expected {', '.join(REQUIRED)}, and file or files; missing or malformed: "
                        f"{', '.join(missing) or 'preprocess, file or files'}")
    if manifest["format_version"] != FORMAT_VERSION:
        raise DataError(f"{path}: format_version is {manifest['format_version']}, expected {FORMAT_VERSION}")
    return manifest


def _from_npz(folder: Path, manifest: dict[str, Any]) -> NDArray[np.uint8]:
    path = _verified(folder, manifest["file"], manifest.get("sha256"))
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: holds no readable array 'images' ({error}); make the set again") from None
    for index, (image, expected) in enumerate(zip(images, manifest.get("image_sha256", []), strict=False)):
        if hashlib.sha256(image.tobytes()).hexdigest() != expected:
            raise DigestMismatch(f"{path}: image {index} is not the one in the manifest; make the set again")
    return images


def _from_files(folder: Path, manifest: dict[str, Any], geometry: Preprocess) -> NDArray[np.uint8]:
    images = []
    for entry in manifest["files"]:
        if not isinstance(entry, dict) or "file" not in entry:
            raise DataError(f"{folder / 'manifest.json'}: an entry of files is {entry!r}, expected {{file, sha256}}")
        path = _verified(folder, entry["file"], entry.get("sha256"))
        images.append(geometry.geometry(decode(path, str(path))))
    size = geometry.image_size
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)


def _verified(folder: Path, name: str, expected: Any) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{folder / 'manifest.json'}: names '{name}', which lies outside the set")
    if not path.is_file():
        raise DataError(f"{path}: is missing, but the manifest names it; make the set again with `toolchain calib`")
    found = sha256_file(path)
    if found != expected:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but the manifest says {str(expected)[:16]}; the file "
                             "was altered: make the set again with `toolchain calib`")
    return path


def _words(geometry: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in geometry.items())

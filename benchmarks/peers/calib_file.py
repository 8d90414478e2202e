"""Calibration images in one .npy file, read from disk one at a time: what every tool under test is fed from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np


class CalibrationFile:
    """float32 images (n, 3, S, S), each read when asked for; nothing is mapped, so no tool is charged for the file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            assert version == (1, 0), f"{path}: .npy version {version}, expected (1, 0)"
            self.shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            self.start = file.tell()
        assert dtype == np.float32, f"{path}: holds {dtype}, expected float32"
        self.path = path

    def __len__(self) -> int:
        return int(self.shape[0])

    def batches(self, size: int = 1) -> Iterator[np.ndarray]:
        """All images in order, (size, 3, S, S) at a time; the last batch holds what is left."""
        per_image = int(np.prod(self.shape[1:]))
        with self.path.open("rb") as file:
            file.seek(self.start)
            for first in range(0, len(self), size):
                count = min(size, len(self) - first)
                yield np.fromfile(file, np.float32, count * per_image).reshape(count, *self.shape[1:])


class Reader:
    """The same images the way onnxruntime's calibrators ask for them: a dict per call, None at the end."""

    def __init__(self, path: Path, input_name: str) -> None:
        self.images, self.input_name = CalibrationFile(path), input_name
        self.rewind()

    def rewind(self) -> None:
        """Start over."""
        self.left = self.images.batches()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image as {input: (1, 3, S, S)}."""
        image = next(self.left, None)
        return None if image is None else {self.input_name: image}

    def get_first(self) -> dict[str, np.ndarray]:
        """The first image, without moving on."""
        return {self.input_name: next(self.images.batches())}

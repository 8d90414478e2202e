"""A teacher's outputs kept on disk: where every epoch shows the same pixels, the teacher needs to look only once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from toolchain import console
from toolchain.distill.features import Outputs
from toolchain.files import write_text

LOGITS = "logits"


class Recorded:
    """Outputs by position in train, written as they are computed and read back in later epochs.

    Each process of a distributed run keeps its own. What an interrupted run has written is taken up again.
    """

    def __init__(self, folder: Path, images: int, limit_mb: int) -> None:
        self.folder, self.images, self.limit_mb = folder / f"rank{os.environ.get('RANK', '0')}", images, limit_mb
        self.arrays: dict[str, np.memmap] = {}
        self.too_large = False
        if (self.folder / "shapes.json").is_file():
            self._open(json.loads((self.folder / "shapes.json").read_text()), "r+")

    def read(self, indices: Tensor) -> Outputs | None:
        """The outputs of images `indices` int64 (n,) on the CPU, or None when one of them is not known yet."""
        rows = indices.numpy()
        if not self.arrays or not self.arrays["known"][rows].all():
            return None
        found = {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items() if name != "known"}
        return Outputs(found.pop(LOGITS), found)

    def write(self, indices: Tensor, outputs: Outputs) -> None:
        """Keep the outputs of images `indices` int64 (n,); nothing is kept when all of train would exceed the limit."""
        if not self.arrays and not self.too_large:
            self._start({LOGITS: outputs.logits, **outputs.features})
        if self.arrays:
            rows = indices.numpy()
            for name, value in {LOGITS: outputs.logits, **outputs.features}.items():
                self.arrays[name][rows] = value.float().cpu().numpy()
            self.arrays["known"][rows] = True

    def _start(self, values: dict[str, Tensor]) -> None:
        shapes = {name: list(value.shape[1:]) for name, value in values.items()}
        megabytes = sum(math.prod(shape) for shape in shapes.values()) * 4 * self.images / 2**20
        if megabytes > self.limit_mb:
            self.too_large = True
            console.log(f"  teacher: its outputs would take {megabytes:,.0f} MB, more than distill.teacher_cache_mb "
                        f"({self.limit_mb}); it looks at every image in every epoch")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open(shapes, "w+")
        write_text(self.folder / "shapes.json", json.dumps(shapes))

    def _open(self, shapes: dict[str, list[int]], mode: str) -> None:
        # the files have numbers for names: a layer's name may hold what a file's may not
        for number, (name, shape) in enumerate(shapes.items()):
            self.arrays[name] = open_memmap(self.folder / f"{number}.npy", mode, np.dtype("float32"),
                                            (self.images, *shape) if mode == "w+" else None)
        self.arrays["known"] = open_memmap(self.folder / "known.npy", mode, np.dtype("bool"),
                                           (self.images,) if mode == "w+" else None)

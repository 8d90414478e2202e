"""A teacher's outputs kept on disk: where every epoch shows the same pixels, the teacher needs to look only once."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from toolchain import console
from toolchain.data.loader import eval_batches
from toolchain.distill.features import Outputs

if TYPE_CHECKING:
    from toolchain.data import Dataset

LOGITS = "logits"
Arrays = dict[str, np.memmap]  # LOGITS and layer names -> float32 (images, …), by position in train


def record(folder: Path, dataset: Dataset, look: Callable[[Tensor], Outputs], batch_size: int, limit_mb: int
           ) -> Arrays | None:
    """What `look` gives for every training image, as files below `folder`; None where they do not fit.

    Images are looked at in their own order and in batches of one size, so that a run that was interrupted finds the
    same numbers again. Each process of a distributed run keeps its own files. limit_mb: of all files together.
    """
    place = folder / f"rank{os.environ.get('RANK', '0')}"
    shutil.rmtree(place, ignore_errors=True)  # of an interrupted run, whose last writes may be missing
    arrays: Arrays = {}
    for batch in eval_batches(dataset.train, dataset.preprocess, batch_size):
        found = look(batch.images)
        named = {LOGITS: found.logits, **found.features}
        if not arrays:
            shapes = [(len(dataset.train), *value.shape[1:]) for value in named.values()]
            if reason := _cannot_keep(place, shapes, limit_mb):
                console.log(f"  teacher: {reason}; it looks at every image in every epoch")
                return None
            console.log("  teacher: the images are not augmented, so it looks at them once")
            # the files have numbers for names: a layer's name may hold what a file's may not
            arrays = {name: open_memmap(place / f"{number}.npy", "r+") for number, name in enumerate(named)}
        for name, value in named.items():
            arrays[name][batch.indices.numpy()] = value.float().cpu().numpy()
    return arrays


def recorded(arrays: Arrays, indices: Tensor, device: torch.device) -> Outputs:
    """The outputs of the images at `indices`, int64 (n,), on `device`."""
    found = {name: torch.from_numpy(array[indices.numpy()]).to(device) for name, array in arrays.items()}
    return Outputs(found.pop(LOGITS), found)


def _cannot_keep(place: Path, shapes: list[tuple[int, ...]], limit_mb: int) -> str | None:
    """Make the empty files, whole on the disk: writing into a sparse one kills the process when the disk is full."""
    megabytes = sum(math.prod(shape) for shape in shapes) * 4 / 2**20
    if megabytes > limit_mb:
        return f"its outputs would take {megabytes:,.0f} MB, more than distill.teacher_cache_mb ({limit_mb})"
    try:
        place.mkdir(parents=True)
        for number, shape in enumerate(shapes):
            path = place / f"{number}.npy"
            open_memmap(path, "w+", np.dtype("float32"), shape)
            with open(path, "r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        return f"its outputs take {megabytes:,.0f} MB and cannot be kept ({error.strerror})"
    return None

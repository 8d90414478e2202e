"""How often an ONNX file is right on val: what decides during a build, which never looks at test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from toolchain.errors import DataError

if TYPE_CHECKING:
    from toolchain.data import Dataset

BATCH = 64


class ValTop1(NamedTuple):
    """Percent of so many images of val."""

    percent: float
    images: int


def val_top1(path: Path, dataset: Dataset, images: int, seed: int) -> ValTop1:
    """Top-1 of an ONNX file on at most so many images of val, as equal per class as can be; the draw is the seed's.

    Raises DataError when val is empty, OnnxError when ONNX Runtime cannot load the file.
    """
    import numpy as np

    from toolchain.data.calibration import balanced_order
    from toolchain.data.dataset import in_order
    from toolchain.graph.compare import open_session

    val, right = dataset.val, 0
    if not len(val):
        raise DataError("data.val_fraction: leaves no images in val, which judge the network; use a larger one")
    rows = np.sort(balanced_order(val.labels, seed)[:images])
    session = open_session(path)
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    batch = size if isinstance(size, int) else BATCH
    for at in in_order(len(rows), batch):
        chunk = dataset.preprocess.normalize(val.images(rows[at]))
        fed = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        answers = session.run(None, {name: fed})[0][: len(chunk)].argmax(axis=1)
        right += int((answers == val.labels[rows[at]]).sum())
    return ValTop1(100.0 * right / len(rows), len(rows))

"""Labels of images, for people: the smallest whole deployment. File, geometry, normalization, engine, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .contents import CLASSES, PREPROCESS
from .images import decoded, geometry, normalize
from .opened import open_engine
from .unpacked import checked_json, engine_of


def labels(folder: Path, files: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """[{"image", "labels": [{"label", "probability"}, …]}], the `top` likeliest first.

    folder: of a slot, or a bundle that was unpacked. Raises Failed.
    """
    engine, path = engine_of(folder)
    preprocess, classes = checked_json(folder, PREPROCESS), checked_json(folder, CLASSES)["classes"]
    images = normalize(np.stack([geometry(decoded(file), preprocess) for file in files]), preprocess)
    with open_engine(engine, path) as opened:
        logits = opened.infer(images).astype(np.float64)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [{"image": str(file), "labels": [{"label": classes[k], "probability": float(row[k])} for k in chosen]}
            for file, row, chosen in zip(files, scores, best)]


def words(found: Sequence[dict[str, Any]]) -> str:
    """The same as lines."""
    return "\n".join(line for one in found for line in (
        f"{one['image']}:", *(f"  {100 * best['probability']:5.1f} %  {best['label']}" for best in one["labels"])))

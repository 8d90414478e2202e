"""Fixed, stratified splits: the same on every machine and for every numpy version."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held out), each ascending; about `fraction` of every class is held out.

    labels: int64 (n,). Exactly round(fraction * n) are held out: each class gives the whole part of its share, and
    the largest remainders give one more. RandomState is used because its stream is frozen (NEP 19).
    """
    random = np.random.RandomState(seed)
    names, counts = np.unique(labels, return_counts=True)
    share = fraction * counts
    quota = np.floor(share + 1e-9).astype(np.int64)
    missing = round(fraction * len(labels)) - int(quota.sum())
    shuffled = random.permutation(len(names))  # equal remainders: a random class gives, not always the first
    order = shuffled[np.argsort(-(share - quota)[shuffled].round(9), kind="stable")]
    quota[order[: max(missing, 0)]] += 1
    pairs = zip(names, quota, strict=True)
    held = [random.permutation(np.flatnonzero(labels == name))[:count] for name, count in pairs]
    out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), out), out


def split_digest(parts: dict[str, tuple[str, NDArray[np.int64], NDArray[np.int64]]]) -> str:
    """SHA-256 of a split: name -> (content identity of its source, indices, labels), in the order given."""
    total = hashlib.sha256()
    for name, (identity, indices, labels) in parts.items():
        total.update(f"{name} {identity} {len(indices)}\n".encode())
        total.update(indices.astype("<i8").tobytes() + labels.astype("<i8").tobytes())
    return total.hexdigest()

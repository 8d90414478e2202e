"""Inputs whose shape an ONNX file leaves open: what is put in for an engine, which has to know."""

from __future__ import annotations

from collections.abc import Sequence


def filled(shape: Sequence[int], image_size: int | None, batch: int = -1) -> tuple[int, ...]:
    """`shape` (N, C, H, W) with what is open (-1) filled in: `batch`, and where an image_size (pixels of a side) is
    known 3 channels and that."""
    wanted = (batch, 3, image_size) if image_size else (batch, -1, -1)
    return tuple(wanted[min(axis, 2)] if found == -1 else found for axis, found in enumerate(shape))

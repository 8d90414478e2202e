"""An engine that is open: images in, logits out, single runs timed. The same for every runtime of a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Failed
from .probe import runtime

if TYPE_CHECKING:
    from numpy import ndarray


@contextmanager
def open_engine(engine: Mapping[str, Any], path: Path, threads: int | None = None) -> Iterator[Opened]:
    """Open the engine file `path`; it is closed at the end. Raises Failed with the runtime's reason.

    engine: {"name", "runtime", "target"}. threads: of a CPU engine; None: all cores.
    """
    module = runtime(engine["runtime"])
    session: Any
    if engine["runtime"] == "tensorrt":
        from .trt import Session

        session = Session(module, engine["name"], path)
    else:
        from .ort import OrtSession

        session = OrtSession(module, engine["target"], path, threads)
    try:
        yield Opened(engine["name"], session)
    finally:
        session.close()


class Opened:
    """What holds for all runtimes, around a session.

    input_shape: (n, C, H, W), -1 where any. batches: smallest and largest batch of one run; None: no upper end.
    """

    def __init__(self, name: str, session: Any) -> None:
        self.name, self.session = name, session
        self.input_shape: tuple[int, ...] = session.input_shape
        self.batches: tuple[int, int | None] = session.batches
        self.on_gpu: bool = session.on_gpu

    def infer(self, images: ndarray) -> ndarray:
        """Logits (N, K) of images (N, C, H, W) float32: split and padded to the batches the engine takes."""
        self._fit(images)
        smallest, largest = self.batches
        size, parts = largest or max(len(images), smallest), []
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            lacking = smallest - len(chunk)
            full = np.concatenate([chunk, np.repeat(chunk[-1:], lacking, axis=0)]) if lacking > 0 else chunk
            parts.append(self.session.run(np.ascontiguousarray(full, np.float32))[: len(chunk)])
        logits = np.concatenate(parts)
        if logits.ndim != 2:
            raise Failed(f"{self.name}: found an output of shape {logits.shape}, expected (images, classes)")
        return logits

    def time_ms(self, images: ndarray, runs: int) -> ndarray:
        """(runs,) milliseconds of single runs on one batch. Raises Failed where it does not take this batch."""
        self._fit(images)
        smallest, largest = self.batches
        if len(images) < smallest or (largest is not None and len(images) > largest):
            raise Failed(f"{self.name}: takes batches of {smallest} to {largest or 'any'}, found {len(images)}")
        times: ndarray = self.session.time_ms(np.ascontiguousarray(images, np.float32), runs)
        return times

    def noise(self, batch: int, seed: int, size: int) -> ndarray:
        """(batch, C, H, W) float32; 3 channels of `size` pixels where the file leaves them open."""
        open_sides = (3, size, size)
        shape = [open_sides[i] if side < 0 else side for i, side in enumerate(self.input_shape[1:])]
        return np.random.default_rng(seed).standard_normal([batch, *shape], np.float32)

    def _fit(self, images: ndarray) -> None:
        asked = self.input_shape
        if images.ndim != len(asked) or any(want not in (-1, found)
                                            for want, found in zip(asked[1:], images.shape[1:])):
            raise Failed(f"{self.name}: found images of shape {images.shape}, expected {asked} (-1: any)")


def golden_distance(found: ndarray, expected: ndarray) -> float:
    """|found - expected| / |expected| over all logits (N, K); infinite where a logit is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / norm if norm else float(np.linalg.norm(found))


def replayed(found: ndarray, expected: ndarray, tolerance: float) -> dict[str, Any]:
    """How golden answers compare: {"images", "distance", "tolerance", "same_answers", "held"}."""
    distance = golden_distance(found, expected)
    same = found.shape == expected.shape and bool((found.argmax(axis=1) == expected.argmax(axis=1)).all())
    return {"images": len(expected), "distance": distance if np.isfinite(distance) else None, "tolerance": tolerance,
            "same_answers": same, "held": bool(same and distance <= tolerance)}

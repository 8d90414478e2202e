"""From where to where a latency counts.

Device only: one batch lies in the memory of the GPU or CPU already, and so do its logits. With transfers: from an array
of the host to its logits there. End to end: from uint8 pixels of the right size to a class, normalization included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray

RUNS, SECONDS = 200, 2.0  # whichever ends first, of each boundary


def outer_ms(engine: Any, images: ndarray, normalized: Callable[[], ndarray] | None) -> dict[str, ndarray | None]:
    """{"with_transfers": (runs,) ms, "end_to_end": (runs,) ms, None without `normalized`} by the wall clock.

    images: one batch (n, C, H, W). normalized: makes the same batch out of pixels.
    """
    return {"with_transfers": _ms(lambda: engine.infer(images)),
            "end_to_end": _ms(lambda: engine.infer(normalized()).argmax(axis=1)) if normalized else None}


def _ms(run: Callable[[], Any]) -> ndarray:
    run(), run()  # cold caches
    samples: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(samples) < RUNS and (not samples or time.perf_counter() < end):
        start = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return np.array(samples)

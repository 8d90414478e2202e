"""Latency, the one way in which everything is timed: warm-up, then rounds that time every engine once, in random order,
so that all share the machine's weather. What is compared is compared within rounds.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy import ndarray

# The first runs of a burst find cold caches, sleeping threads and slow clocks; they are timed, and not kept.
SETTLE_MS, FEWEST, MOST = 10.0, 2, 20  # as many as fit in these milliseconds, within bounds


def settling(warm: ndarray) -> int:
    """How many runs at the start of each burst do not count. warm: (runs,) ms of the warm-up, none: the fewest."""
    if not len(warm):
        return FEWEST
    return min(MOST, max(FEWEST, math.ceil(SETTLE_MS / max(float(np.median(warm)), 1e-3))))


def interleaved_ms(
    engines: Mapping[str, Any], images: Mapping[str, ndarray], *, warmup: int, rounds: int, runs: int, seed: int,
    advance: Callable[[], None] = lambda: None,
    around: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> dict[str, ndarray]:
    """Milliseconds (rounds, runs) of every engine, each on its own batch (n, C, H, W) of `images`.

    warmup: untimed runs of each engine before the first round. seed: of the order within the rounds. around: a context
    that goes about each burst of the engine it is told. Runs after `settling` ones are samples, every one of them.
    """
    names, rng = list(engines), np.random.default_rng(seed)
    samples = {name: np.empty((rounds, runs)) for name in names}
    with no_garbage_collection():
        first = {name: settling(engines[name].time_ms(images[name], warmup)) for name in names}
        for r in range(rounds):
            for i in rng.permutation(len(names)):
                name = names[i]
                with around(name):
                    samples[name][r] = engines[name].time_ms(images[name], first[name] + runs)[first[name]:]
            advance()
    return samples


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, and not while the clock runs."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def summary(samples: ndarray) -> dict[str, float | int]:
    """p10, p50, p95, p99, mean, std (n - 1) in milliseconds, and n, over all rounds.

    p10 is what a quiet machine gives and repeats best; p50 and p99 are what was had here.
    """
    p10, p50, p95, p99 = (float(value) for value in np.percentile(samples, [10, 50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99, "mean": float(samples.mean()),
            "std": float(samples.std(ddof=1)) if samples.size > 1 else 0.0, "n": int(samples.size), "p10": p10}

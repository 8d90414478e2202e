"""Latency: warm-up, then rounds that time every engine once, in random order, so that all share the machine's weather.

Machines drift (clocks, heat, neighbours) far more between minutes than within a round, so engines are compared by
ratios within rounds: the median of the per-round ratios of medians, with a bootstrap over rounds (Efron 1979).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from toolchain.engines.protocol import Images, Loaded

Samples = NDArray[np.float64]  # (rounds, runs) milliseconds
Around = Callable[[str], AbstractContextManager[None]]
DISCARD = 2  # the first runs of a burst find cold caches and sleeping threads; they are timed, and not kept
RESAMPLES = 2000


def interleaved_ms(
    engines: Mapping[str, Loaded], images: Images, *, warmup: int, rounds: int, runs: int, seed: int,
    advance: Callable[[], None] = lambda: None, around: Around = lambda name: nullcontext(),
) -> dict[str, Samples]:
    """Milliseconds (rounds, runs) of every engine on one batch `images` (n, C, H, W).

    warmup: untimed runs of each engine before the first round. seed: of the order within the rounds. around: a context
    that goes about each burst of the engine it is told. The first DISCARD runs of each burst are not among the samples;
    every other one is.
    """
    names, rng = list(engines), np.random.default_rng(seed)
    samples = {name: np.empty((rounds, runs)) for name in names}
    with no_garbage_collection():
        for name in names:
            engines[name].time_ms(images, warmup)
        for r in range(rounds):
            for i in rng.permutation(len(names)):
                with around(names[i]):
                    samples[names[i]][r] = engines[names[i]].time_ms(images, DISCARD + runs)[DISCARD:]
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


def summary(samples: Samples) -> dict[str, float | int]:
    """p10, p50, p95, p99, mean, std (n - 1) in milliseconds, and n, over all rounds.

    p10 is what a quiet machine gives and repeats best; p50 and p99 are what was had here.
    """
    p10, p50, p95, p99 = np.percentile(samples, [10, 50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "mean": float(samples.mean()),
            "std": float(samples.std(ddof=1)) if samples.size > 1 else 0.0, "n": int(samples.size), "p10": float(p10)}


def round_ratios(reference: Samples, samples: Samples) -> NDArray[np.float64]:
    """(rounds,) reference median / own median of each round: above 1 is faster than the reference."""
    return np.median(reference, axis=1) / np.median(samples, axis=1)


def speedup(reference: Samples, samples: Samples, seed: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """The median ratio {value, low, high} with a bootstrap 95 % interval over rounds; both have the same rounds."""
    ratios = round_ratios(reference, samples)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), size=(resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return {"value": float(np.median(ratios)), "low": float(low), "high": float(high)}

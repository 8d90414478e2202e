"""Any engines side by side, whatever their inputs, by the one way in which everything here is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.engines.protocol import Images, Loaded
from toolchain.measure.latency import speedup
from toolchain.measure.throughput import takes
from toolchain.measure.validity import trusted_ms
from toolchain.runner.rounds import summary


@dataclass(frozen=True)
class Method:
    """How engines are timed: each in `rounds` rounds of `runs` runs, in random order within a round.

    threads: of a CPU engine. size: pixels of a side where a file leaves them open. seed: of order, images, intervals.
    """

    threads: int
    batch: int = 1
    warmup: int = 20
    rounds: int = 20
    runs: int = 20
    attempts: int = 2
    size: int = 224
    seed: int = 0


class Fed:
    """An engine with noise of its own input's size, so that engines of different inputs can be timed side by side."""

    def __init__(self, engine: Loaded, batch: int, seed: int, size: int = 1) -> None:
        self.engine, channels = engine, engine.input_shape[1:]
        shape = (batch, *((3 if axis == 0 else size) if length < 0 else length for axis, length in enumerate(channels)))
        self.images: Images = np.random.default_rng(seed).standard_normal(shape, np.float32)

    def time_ms(self, images: Images, runs: int) -> NDArray[np.float64]:
        """(runs,) milliseconds on its own images, whichever are given."""
        return self.engine.time_ms(self.images, runs)


def bench(engines: Mapping[str, Loaded], how: Method) -> list[dict[str, Any]]:
    """One row an engine: {"name", "input", "latency_ms", "ratio", "images_per_s", "validity"}.

    input: shape (n, C, H, W) of what it was given, noise. latency_ms: of `summary`. ratio: the first engine's latency
    over its own, {value, low, high}: above 1 is faster; of the first one None. images_per_s: at this batch.
    Raises EngineError where a batch is outside an engine's profile.
    """
    fed: dict[str, Any] = {name: Fed(engine, how.batch, how.seed, how.size) for name, engine in engines.items()}
    first = next(iter(fed))
    samples, validity = trusted_ms(fed, fed[first].images, warmup=how.warmup, rounds=how.rounds, runs=how.runs,
                                   seed=how.seed, threads=how.threads, attempts=how.attempts)
    return [{
        "name": name, "input": list(one.images.shape), "latency_ms": summary(samples[name]),
        "ratio": speedup(samples[first], samples[name], how.seed) if name != first else None,
        "images_per_s": 1e3 * how.batch / float(np.median(samples[name])), "validity": validity[name],
    } for name, one in fed.items()]


def refused_batch(engines: Mapping[str, Loaded], batch: int) -> str | None:
    """Why a batch does not fit one of the engines, in words; None where all take it."""
    for name, engine in engines.items():
        if not takes(engine, batch):
            smallest, largest = engine.batches
            return f"{name}: takes batches of {smallest} to {largest or 'any'}, found --batch {batch}; choose another"
    return None

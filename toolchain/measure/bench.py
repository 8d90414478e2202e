"""Any engines side by side, whatever their inputs, by the one way in which everything here is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolchain.engines.protocol import Images, Loaded
from toolchain.measure.latency import speedup
from toolchain.measure.throughput import takes
from toolchain.measure.validity import trusted_ms
from toolchain.runner.boundaries import outer_ms
from toolchain.runner.energy import counter, energy
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


def noise(engine: Loaded, batch: int, seed: int, size: int = 1) -> Images:
    """(batch, C, H, W) float32 as the engine takes it; 3 channels of `size` pixels where a file leaves them open."""
    open_sides, channels = (3, size, size), engine.input_shape[1:]
    shape = [open_sides[axis] if length < 0 else length for axis, length in enumerate(channels)]
    return np.random.default_rng(seed).standard_normal((batch, *shape), np.float32)


def bench(engines: Mapping[str, Loaded], how: Method) -> list[dict[str, Any]]:
    """One row an engine: {"name", "input", "latency_ms", "with_transfers_ms", "ratio", "images_per_s", "energy",
    "validity"}.

    input: shape (n, C, H, W) of what it was given, noise. latency_ms: of `summary`, device only. ratio: the first
    engine's latency over its own, {value, low, high}: above 1 is faster; of the first one None. images_per_s: at this
    batch. energy: None where nothing counts it. Raises EngineError where a batch is outside an engine's profile.
    """
    images = {name: noise(engine, how.batch, how.seed, how.size) for name, engine in engines.items()}
    first, gpu = next(iter(engines)), {name for name, one in engines.items() if one.device_bytes() is not None}
    samples, validity = trusted_ms(engines, images, warmup=how.warmup, rounds=how.rounds, runs=how.runs,
                                   seed=how.seed, threads=how.threads, attempts=how.attempts, on_gpu=gpu)
    return [{
        "name": name, "input": list(images[name].shape), "latency_ms": summary(samples[name]),
        "ratio": speedup(samples[first], samples[name], how.seed) if name != first else None,
        "images_per_s": 1e3 * how.batch / float(np.median(samples[name])), "validity": validity[name],
        **_beside(engine, images[name], name in gpu),
    } for name, engine in engines.items()]


def _beside(engine: Loaded, images: Images, on_gpu: bool) -> dict[str, Any]:
    """What is asked of an engine when the rounds are over."""
    ms, counts = outer_ms(engine, images, None)["with_transfers"], counter(on_gpu)
    return {"with_transfers_ms": None if ms is None else summary(ms),
            "energy": energy(engine, images, counts) if counts else None}


def refused_batch(engines: Mapping[str, Loaded], batch: int) -> str | None:
    """Why a batch does not fit one of the engines, in words; None where all take it."""
    for name, engine in engines.items():
        if not takes(engine, batch):
            smallest, largest = engine.batches
            return f"{name}: takes batches of {smallest} to {largest or 'any'}, found --batch {batch}; choose another"
    return None

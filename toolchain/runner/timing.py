"""Latency on the device, as everywhere: warm-up, then rounds that time every engine once, in random order."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Failed, progress
from .boundaries import outer_ms
from .conditions import Watch, causes, settings
from .energy import counter, energy
from .images import normalize
from .nvml import card
from .opened import Opened
from .probe import cores

if TYPE_CHECKING:
    from numpy import ndarray

DISCARD = 2  # the first runs of a burst find cold caches and sleeping threads; they are timed, and not kept
AGAIN = "again"  # the first engine under a second name: how far one engine is from itself
HOW = {"batch": 1, "warmup": 20, "rounds": 20, "runs": 20, "attempts": 2, "seed": 0, "size": 224}


def trusted_ms(
    engines: Mapping[str, Opened], images: Mapping[str, ndarray], how: Mapping[str, int], threads: int | None
) -> tuple[dict[str, ndarray], dict[str, dict[str, Any]], dict[str, Any]]:
    """Milliseconds (rounds, runs) of every engine on its own batch of `images`, measured again while any is
    inconclusive; what each is worth, {"verdict", "causes", "attempts"}; and how the device stood before and after.
    """
    first, before = next(iter(engines)), settings()
    gpu = any(engine.on_gpu for engine in engines.values())
    attempt, found = 0, {name: ["not measured"] for name in engines}
    while attempt < how["attempts"] and any(found.values()):
        attempt, watch = attempt + 1, Watch(gpu=gpu)
        samples = interleaved_ms({**engines, AGAIN: engines[first]}, {**images, AGAIN: images[first]}, how, watch)
        found = {name: causes(name, samples, watch, threads or cores(), cores(), (AGAIN, first), engine.on_gpu)
                 for name, engine in engines.items()}
    del samples[AGAIN]
    verdicts = {name: {"verdict": "inconclusive" if why else "valid", "causes": why, "attempts": attempt}
                for name, why in found.items()}
    return samples, verdicts, {"before": before, "after": {**settings(), **_of_gpu(gpu)},
                               "other_cores": round(watch.other_cores(), 2)}


def _of_gpu(asked: bool) -> dict[str, Any]:
    found = card() if asked else None
    return found.settings() if found else {}


def interleaved_ms(
    engines: Mapping[str, Opened], images: Mapping[str, ndarray], how: Mapping[str, int], watch: Watch
) -> dict[str, ndarray]:
    """Milliseconds (rounds, runs) of every engine; the seed gives the order within the rounds."""
    names, rng = list(engines), np.random.default_rng(how["seed"])
    rounds, runs = how["rounds"], how["runs"]
    samples = {name: np.empty((rounds, runs)) for name in names}
    gc.collect()
    gc.disable()
    try:
        for name in names:
            engines[name].time_ms(images[name], how["warmup"])
        for r in range(rounds):
            for i in rng.permutation(len(names)):
                with watch.around(names[i]):
                    times = engines[names[i]].time_ms(images[names[i]], DISCARD + runs)
                samples[names[i]][r] = times[DISCARD:]
            watch.round_ended()
            progress("latency", (r + 1) / rounds)
    finally:
        gc.enable()
    return samples


def beside(engine: Opened, images: ndarray, pixels: ndarray | None, preprocess: Any) -> dict[str, Any]:
    """What is asked of an engine after the rounds: {"with_transfers", "end_to_end": of `summary`, "energy"}."""
    outer = outer_ms(engine, images, None if pixels is None else lambda: normalize(pixels, preprocess))
    counts = counter(engine.on_gpu)
    return {**{name: None if ms is None else summary(ms) for name, ms in outer.items()},
            "energy": energy(engine, images, counts) if counts else None}


def summary(samples: ndarray) -> dict[str, float | int]:
    """p10, p50, p95, p99, mean, std (n - 1) in milliseconds, and n, over all rounds."""
    p10, p50, p95, p99 = (float(value) for value in np.percentile(samples, [10, 50, 95, 99]))
    return {"p10": p10, "p50": p50, "p95": p95, "p99": p99, "mean": float(samples.mean()),
            "std": float(samples.std(ddof=1)) if samples.size > 1 else 0.0, "n": int(samples.size)}


def method(asked: Mapping[str, Any]) -> dict[str, int]:
    """`asked`, with HOW for what is not said. Raises Failed."""
    how = {**HOW, **asked}
    wrong = [name for name, value in how.items()
             if name not in HOW or type(value) is not int or value < (0 if name in ("seed", "warmup") else 1)]
    if wrong:
        raise Failed(f"bench: found {wrong[0]} {how[wrong[0]]!r}, expected whole numbers for {', '.join(HOW)}")
    return how

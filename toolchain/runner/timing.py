"""Latency on the device, as everywhere: warm-up, then rounds that time every engine once, in random order."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Failed, progress
from .conditions import Watch, causes, settings
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
    attempt, found = 0, {name: ["not measured"] for name in engines}
    while attempt < how["attempts"] and any(found.values()):
        attempt, watch = attempt + 1, Watch()
        samples = interleaved_ms({**engines, AGAIN: engines[first]}, {**images, AGAIN: images[first]}, how, watch)
        busy = {name: 1 if engine.boundary == "device only" else threads or cores() for name, engine in
                engines.items()}
        found = {name: causes(name, samples, watch, busy[name], cores(), (AGAIN, first)) for name in engines}
    del samples[AGAIN]
    verdicts = {name: {"verdict": "inconclusive" if why else "valid", "causes": why, "attempts": attempt}
                for name, why in found.items()}
    return samples, verdicts, {"before": before, "after": settings(), "other_cores": round(watch.other_cores(), 2)}


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
            progress("latency", (r + 1) / rounds)
    finally:
        gc.enable()
    return samples


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

"""Latency that is valid, or inconclusive with the causes that were seen: measured again, then told as what it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import psutil

from toolchain import console
from toolchain.engines.protocol import Images, Loaded
from toolchain.measure.latency import Samples
from toolchain.runner.conditions import Counters, Watch, causes, counters
from toolchain.runner.rounds import interleaved_ms

AGAIN = "again"  # the first engine under a second name: how far one engine is from itself


def trusted_ms(
    engines: Mapping[str, Loaded], images: Mapping[str, Images], *, warmup: int, rounds: int, runs: int, seed: int,
    threads: int, attempts: int, reference: str | None = None, on_gpu: Collection[str] = (),
) -> tuple[dict[str, Samples], dict[str, dict[str, Any]]]:
    """Milliseconds (rounds, runs) of every engine, measured again while any is inconclusive, and what each is worth.

    images: one batch (n, C, H, W) of each. threads: of a CPU engine. attempts: measurements at most, the last counts.
    reference: the engine that is timed against itself; None: the first. on_gpu: engines that a GPU runs, which is
    asked after each round. Returns also, by engine, {"verdict": "valid" or "inconclusive", "causes": in words,
    "attempts": measurements made}.
    """
    twice, cores = reference or next(iter(engines)), psutil.cpu_count() or 1
    for attempt in range(1, attempts + 1):
        watch = Watch(snapshot, gpu=bool(on_gpu))
        with console.bar("latency" if attempt == 1 else f"latency, attempt {attempt} of {attempts}", rounds) as bar:
            samples = interleaved_ms(
                {**engines, AGAIN: engines[twice]}, {**images, AGAIN: images[twice]}, warmup=warmup, rounds=rounds,
                runs=runs, seed=seed, advance=_both(bar.advance, watch.round_ended), around=watch.around)
        found = {name: causes(name, samples, watch, threads, cores, (AGAIN, twice), name in on_gpu) for name in engines}
        if not any(found.values()):
            break
    del samples[AGAIN]
    return samples, {name: {"verdict": "inconclusive" if why else "valid", "causes": why, "attempts": attempt}
                     for name, why in found.items()}


def snapshot() -> Counters:
    """The counters now; systems other than Linux tell through psutil how busy all cores are."""
    found = counters()
    if found.busy_s is not None:
        return found
    times = psutil.cpu_times()
    return found._replace(busy_s=sum(getattr(times, name, 0.0) for name in ("user", "nice", "system")))


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        one()
        other()

    return both

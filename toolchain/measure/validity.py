"""Whether a latency can be trusted: valid, or inconclusive with the causes that were seen.

Three questions are asked of every measurement. Did others compute meanwhile (run queues, other processes' CPU time,
thermal events)? Does an engine timed against itself, in the same rounds and under another name, come out as fast (an
A/A test)? And are the last rounds as fast as the first? Ratios within rounds survive much of this, milliseconds do not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import psutil

from toolchain import console
from toolchain.engines.protocol import Images, Loaded
from toolchain.measure.conditions import Watch
from toolchain.measure.latency import Samples, interleaved_ms, round_ratios
from toolchain.measure.nvml import opened_nvml

AGAIN = "again"  # the first engine under a second name: how far one engine is from itself
LARGEST_GAP = 0.05  # of an engine to itself
LARGEST_DRIFT = 0.10  # of the last third of the rounds' median to the first third's
LARGEST_WAIT = 0.05  # share of a burst that threads stood aside for others
OTHER_CORES = 0.3  # kept busy by others, whatever the machine's size
OTHER_SHARE = 0.02  # or this share of its cores, where that is more


def trusted_ms(
    engines: Mapping[str, Loaded], images: Images, *, warmup: int, rounds: int, runs: int, seed: int, threads: int,
    attempts: int, reference: str | None = None, on_gpu: Collection[str] = (),
) -> tuple[dict[str, Samples], dict[str, dict[str, Any]]]:
    """Milliseconds (rounds, runs) of every engine, measured again while any is inconclusive, and what each is worth.

    images: one batch (n, C, H, W). threads: of a CPU engine. attempts: measurements at most; the last one counts.
    reference: the engine that is timed against itself; None: the first. on_gpu: engines that a GPU runs, which is
    asked after each round. Returns also, by engine, {"verdict": "valid" or "inconclusive", "causes": in words,
    "attempts": measurements made}.
    """
    twice, cores = reference or next(iter(engines)), psutil.cpu_count() or 1
    for attempt in range(1, attempts + 1):
        watch = Watch(nvml=opened_nvml() if on_gpu else None)
        with console.bar("latency" if attempt == 1 else f"latency, attempt {attempt} of {attempts}", rounds) as bar:
            samples = interleaved_ms({**engines, AGAIN: engines[twice]}, images, warmup=warmup, rounds=rounds,
                                     runs=runs, seed=seed, advance=watch.each_round(bar.advance), around=watch.around)
        found = {name: causes(name, samples, watch, 1 if name in on_gpu else threads, cores, (AGAIN, twice))
                 + (list(watch.of_gpu) if name in on_gpu else []) for name in engines}
        if not any(found.values()):
            break
    del samples[AGAIN]
    return samples, {name: {"verdict": "inconclusive" if why else "valid", "causes": why, "attempts": attempt}
                     for name, why in found.items()}


def drift(samples: Samples) -> float:
    """Median of the last third of the rounds over that of the first third, minus 1. samples: (rounds, runs) ms."""
    third = max(1, len(samples) // 3)
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)


def own_gap(samples: Samples, again: Samples) -> float:
    """How much slower an engine seems than itself: the median ratio of rounds, minus 1."""
    return float(np.median(round_ratios(again, samples)) - 1)


def causes(
    name: str, samples: Mapping[str, Samples], watch: Watch, threads: int, cores: int,
    own: tuple[str, str] | None = None,
) -> list[str]:
    """Why the latency of the engine `name` is inconclusive, in words; empty: it is valid.

    samples: (rounds, runs) milliseconds by engine. threads: of a CPU engine. cores: of the machine, logical. own: the
    two names of the one engine that was timed twice.
    """
    found, others = [], watch.other_cores()
    if others > max(OTHER_CORES, OTHER_SHARE * cores):
        found.append(f"other processes kept {others:.1f} of {cores} cores busy")
    waited = watch.waited_share(name, threads)
    if waited is not None and waited > LARGEST_WAIT:
        found.append(f"its threads stood aside for others {100 * waited:.0f} % of the time")
    if watch.throttled():
        found.append("the CPU was slowed down for its heat")
    if own and abs(gap := own_gap(samples[own[0]], samples[own[1]])) > LARGEST_GAP:
        found.append(f"an engine timed against itself came out {1 + gap:.2f} times as slow")
    if abs(change := drift(samples[name])) > LARGEST_DRIFT:
        found.append(f"its last rounds took {1 + change:.2f} times as long as its first")
    return found

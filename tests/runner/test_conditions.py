"""Latency on a device is measured and judged as it is on the machine that built the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolchain.measure import latency, validity
from toolchain.runner import conditions, timing

RNG = np.random.default_rng(0)


def watched(other: float = 0.0, waited: float = 0.0, throttled: bool = False) -> Any:
    return SimpleNamespace(other_cores=lambda: other, waited_share=lambda name, threads: waited, throttled=lambda: throttled)


def samples(drift: float = 1.0, gap: float = 1.0) -> dict[str, np.ndarray]:
    """(12, 5) milliseconds of an engine and of itself again."""
    times = 1 + 0.01 * RNG.random((12, 5))
    times[6:] *= drift
    return {"one": times, "again": gap * times}


@pytest.mark.parametrize("watch", [watched(), watched(other=1.25), watched(waited=0.2), watched(throttled=True)])
@pytest.mark.parametrize("times", [samples(), samples(drift=1.4), samples(gap=1.2), samples(drift=0.6, gap=0.8)])
def test_the_verdict_is_the_builders(watch: Any, times: dict[str, np.ndarray]) -> None:
    found = conditions.causes("one", times, watch, 1, 4, ("again", "one"))
    assert found == validity.causes("one", times, watch, 1, 4, ("again", "one"))


def test_a_quiet_run_is_valid_and_a_busy_one_is_not() -> None:
    assert conditions.causes("one", samples(), watched(), 1, 4, ("again", "one")) == []
    told = conditions.causes("one", samples(drift=2.0), watched(other=2.0, waited=0.5), 1, 4, ("again", "one"))
    assert len(told) == 3 and "2.0 of 4 cores" in told[0] and "50 %" in told[1] and "2.0" in told[2]


class Clock:
    """An engine that takes as many milliseconds as runs were asked of it so far."""

    boundary = "device only"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def time_ms(self, images: Any, runs: int) -> np.ndarray:
        self.asked.append(runs)
        return np.arange(runs) + 100.0 * len(self.asked)


def test_rounds_are_the_builders() -> None:
    how = {"batch": 1, "warmup": 3, "rounds": 5, "runs": 4, "attempts": 1, "seed": 9, "size": 1}
    ours, theirs = {n: Clock() for n in "abc"}, {n: Clock() for n in "abc"}
    found = timing.interleaved_ms(ours, dict.fromkeys("abc"), how, conditions.Watch())  # type: ignore[arg-type]
    expected = latency.interleaved_ms(theirs, None, warmup=3, rounds=5, runs=4, seed=9)  # type: ignore[arg-type]
    assert all(np.array_equal(found[n], expected[n]) for n in "abc") and ours["a"].asked == [3, 6, 6, 6, 6, 6]
    assert timing.summary(found["a"]) == latency.summary(expected["a"])


def test_an_inconclusive_measurement_is_made_again() -> None:
    clocks: Any = {"a": Clock()}  # each burst slower than the last: it drifts
    _, verdicts, told = timing.trusted_ms(clocks, {"a": np.zeros(1)}, {**timing.HOW, "rounds": 6, "runs": 2, "attempts": 3}, 1)
    assert verdicts["a"]["verdict"] == "inconclusive" and verdicts["a"]["attempts"] == 3
    assert any("its last rounds took" in cause for cause in verdicts["a"]["causes"]) and {"before", "after"} <= set(told)


def test_the_kernels_counters_are_read() -> None:
    first, second = conditions.counters(), conditions.counters()
    assert second.wall_s > first.wall_s and second.own_s >= first.own_s
    assert first.busy_s is None or (second.busy_s is not None and second.busy_s >= first.busy_s)

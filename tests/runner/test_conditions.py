"""Latency on a device is measured and judged as it is on the machine that built the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolchain.runner import conditions, timing


class Clock:
    """An engine that takes as many milliseconds as runs were asked of it so far."""

    on_gpu = False

    def __init__(self) -> None:
        self.asked: list[int] = []

    def time_ms(self, images: Any, runs: int) -> np.ndarray:
        self.asked.append(runs)
        return np.arange(runs) + 100.0 * len(self.asked)


def test_an_inconclusive_measurement_is_made_again() -> None:
    clocks: Any = {"a": Clock()}  # each burst slower than the last: it drifts
    _, verdicts, told = timing.trusted_ms(clocks, {"a": np.zeros(1)}, {**timing.HOW, "rounds": 6, "runs": 2, "attempts": 3}, 1)
    assert verdicts["a"]["verdict"] == "inconclusive" and verdicts["a"]["attempts"] == 3
    assert any("its last rounds took" in cause for cause in verdicts["a"]["causes"]) and {"before", "after"} <= set(told)


def test_the_kernels_counters_are_read() -> None:
    first, second = conditions.counters(), conditions.counters()
    assert second.wall_s > first.wall_s and second.own_s >= first.own_s
    assert first.busy_s is None or (second.busy_s is not None and second.busy_s >= first.busy_s)

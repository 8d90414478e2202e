import gc

import numpy as np
import pytest

from toolchain.measure.latency import (
    round_ratios,
    speedup,
)
from toolchain.runner.rounds import FEWEST, MOST, interleaved_ms, no_garbage_collection, settling, summary

IMAGE = np.zeros((1, 1, 1, 1), np.float32)


def test_every_round_times_every_engine_once_in_an_order_that_changes(stub):
    calls = []
    engines = {name: stub(np.eye(2), calls=calls) for name in "abc"}
    names = {id(engine): name for name, engine in engines.items()}
    interleaved_ms(engines, dict.fromkeys(engines, IMAGE), warmup=7, rounds=12, runs=4, seed=0)
    warm, timed = calls[:3], calls[3:]
    assert [(names[id(e)], runs) for e, _, runs in warm] == [("a", 7), ("b", 7), ("c", 7)]
    assert {runs for _, _, runs in timed} == {settling(engines["a"].time_ms(IMAGE, 7)) + 4}
    orders = ["".join(names[id(e)] for e, _, _ in timed[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders) and len(set(orders)) > 3


def test_the_order_depends_on_the_seed_alone(stub):
    def order(seed):
        calls = []
        engines = {name: stub(np.eye(2), ms=i, calls=calls) for i, name in enumerate("abcd")}
        interleaved_ms(engines, dict.fromkeys(engines, IMAGE), warmup=1, rounds=6, runs=1, seed=seed)
        return [engine.ms for engine, _, _ in calls]

    assert order(3) == order(3) != order(4)


def test_the_first_runs_of_a_burst_are_not_kept_and_every_other_one_is(stub):
    assert (settling(np.array([5.0, 2.0, 0.1])), settling(np.array([0.1])), settling(np.array([400.0]))) == (5, MOST, FEWEST)
    assert settling(np.array([])) == FEWEST and settling(np.zeros(3)) == MOST
    told = []
    found = interleaved_ms({"a": stub(np.eye(2), ms=10.0)}, {"a": IMAGE}, warmup=1, rounds=2, runs=3, seed=0,
                           advance=lambda: told.append(1))
    assert found["a"].tolist() == [[12.0, 13.0, 14.0]] * 2  # of 10, 11, 12, 13, 14
    assert len(told) == 2


def test_a_summary_of_one_to_hundred_is_what_arithmetic_says():
    found = summary(np.arange(1.0, 101.0).reshape(10, 10))
    assert found["n"] == 100 and found["p50"] == found["mean"] == 50.5
    assert found["p10"] == pytest.approx(10.9)  # 1 + 0.10 * 99
    assert found["p95"] == pytest.approx(95.05) and found["p99"] == pytest.approx(99.01)
    assert found["std"] == pytest.approx((100 * 101 / 12) ** 0.5)  # of 1..n, n - 1 in the denominator: n(n + 1)/12


def test_the_ratio_is_taken_within_each_round():
    """The machine slows down by ten in round two; both engines feel it, and the ratio does not."""
    reference = np.array([[4.0, 4.0, 4.0], [40.0, 40.0, 40.0]])
    ours = np.array([[2.0, 2.0, 2.0], [20.0, 20.0, 20.0]])
    assert round_ratios(reference, ours).tolist() == [2.0, 2.0]
    assert speedup(reference, ours, seed=0) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_one_stray_run_does_not_move_the_ratio():
    reference, ours = np.full((5, 5), 6.0), np.full((5, 5), 2.0)
    ours[:, 0] = 1000.0
    assert speedup(reference, ours, seed=0)["value"] == 3.0


def test_an_engine_against_itself_has_ratio_one():
    samples = np.random.default_rng(0).gamma(2.0, size=(20, 20))
    assert speedup(samples, samples, seed=0) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_interval_holds_the_true_ratio_of_two_noisy_engines_about_95_times_in_100():
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        reference = 3.0 * np.exp(0.2 * rng.standard_normal((20, 9)))
        ours = 1.0 * np.exp(0.2 * rng.standard_normal((20, 9)))
        found = speedup(reference, ours, seed=trial, resamples=400)
        held += found["low"] <= 3.0 <= found["high"]
    assert 0.88 <= held / 200 <= 1.0


def test_the_interval_repeats_for_a_seed():
    rng = np.random.default_rng(0)
    reference, ours = rng.gamma(5.0, size=(10, 5)), rng.gamma(5.0, size=(10, 5))
    assert speedup(reference, ours, seed=1) == speedup(reference, ours, seed=1)


def test_garbage_collection_is_off_while_the_clock_runs_and_on_again_after_an_error():
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), no_garbage_collection():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()

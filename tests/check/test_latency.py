"""What is said of latencies: which side lacks rounds, what was inconclusive, and that FP32 itself became slow."""

from typing import Any

import pytest
from check_runs import FP32, INT8, images, made, times

from toolchain.check.baseline import Conditions, conditions, make_baseline
from toolchain.check.finding import Tolerances
from toolchain.check.judge import check, notices
from toolchain.report.schema import Report

LABELS, KEYS = images(200)
ANSWERS = {FP32: LABELS, INT8: LABELS}
STEADY = {"rounds": 20, "noise": 0.01}
NOISY = {"rounds": 20, "noise": 0.5}


def run(fp32: float = 4.0, int8: float = 1.0, seed: int = 1, noise: dict[str, Any] = STEADY, **changes: Any):
    return made(LABELS, KEYS, ANSWERS, {FP32: times(fp32, seed, **{**noise, "noise": 0.01}),
                                        INT8: times(int8, seed + 1, **noise)}, **changes)


def latency(now, before, asked: Tolerances | None = None):
    found = check(now, make_baseline(before), asked or Tolerances())
    return next(finding for finding in found if (finding.engine, finding.what) == (INT8, "latency"))


@pytest.mark.parametrize(("now", "before", "said", "unsaid"), [
    (NOISY, STEADY, "this run has too few rounds: about", "write"),
    (STEADY, NOISY, "the baseline has too few rounds: about", "build again"),
    (NOISY, NOISY, "both have too few rounds: about", "this run has too few"),
])
def test_the_side_that_lacks_rounds_is_named_with_the_field_to_set(now, before, said, unsaid):
    found = latency(run(noise=now), run(noise=before, seed=7))
    assert found.outcome == "not enough evidence"
    assert said in found.told and unsaid not in found.told
    for side, asked in (("rounds_needed", now), ("baseline_rounds_needed", before)):
        assert (found.figures[side] is not None) == (asked is NOISY)
        assert asked is STEADY or f"--set measure.rounds={found.figures[side]}" in found.told


def test_fewer_rounds_than_any_interval_needs_are_said_as_the_least():
    found = latency(run(), run(seed=7, noise={"rounds": 4, "noise": 0.01}))
    assert "the baseline has too few rounds: at least 6 would decide (now 4)" in found.told


def test_an_inconclusive_side_is_named_with_what_to_do():
    doubt = {"validity": {"verdict": "inconclusive", "causes": ["a core throttled"], "attempts": 2}}
    ours, theirs = latency(run(int8=1.5, **doubt), run(seed=7)), latency(run(int8=1.5), run(seed=7, **doubt))
    assert ours.outcome == theirs.outcome == "not enough evidence"
    assert "but this run was inconclusive (a core throttled): build again on a quiet machine" in ours.told
    assert "but the baseline was inconclusive (a core throttled): write it anew from a build on a quiet" in theirs.told
    assert "the baseline was" not in ours.told and ours.told.endswith("on a quiet machine with --remeasure")


def test_a_side_that_lacks_rounds_and_was_inconclusive_needs_fewer_on_a_quiet_machine():
    doubt = {"validity": {"verdict": "inconclusive", "causes": ["a core throttled"], "attempts": 2}}
    found = latency(run(noise=NOISY, **doubt), run(seed=7, **doubt))
    assert found.told.endswith(". Fewer do on a quiet machine: this run was inconclusive (a core throttled)")


def test_what_slows_every_engine_alike_is_a_notice_and_no_failure():
    slow, before = run(fp32=8, int8=2), make_baseline(run(seed=7))
    assert {finding.outcome for finding in check(slow, before, Tolerances())} == {"pass", "not judged"}
    (told,) = notices(slow, before, Tolerances())
    assert told.startswith(f"{FP32} takes 8 ms, 2.0 times the baseline's 4 ms") and "this fails nothing" in told


@pytest.mark.parametrize("now", [
    run(fp32=5.5, int8=1.4), run(fp32=8, int8=2, runtime_version="2"), run(fp32=2, int8=0.5),
    run(fp32=8, int8=2, validity={"verdict": "inconclusive", "causes": ["others computed"], "attempts": 2}),
])
def test_another_day_machine_or_an_inconclusive_measurement_gives_no_notice(now):
    assert notices(now, make_baseline(run(seed=7)), Tolerances()) == []
    assert notices(run(fp32=8, int8=2), make_baseline(run(seed=7)), Tolerances(latency_percent=None)) == []


def test_a_gpus_driver_is_a_condition_that_older_baselines_do_not_tell():
    gpu: Report = run(runtime="tensorrt").report
    gpu = gpu.model_copy(update={"environment": gpu.environment.model_validate(
        {"gpus": [{"name": "GPU", "driver": "580.1"}]})})
    now = conditions(gpu.engines[0], gpu)
    assert (now.device, now.driver) == ("GPU", "580.1")
    assert now.unlike(now.model_copy(update={"driver": "570.2"})) == ["driver '580.1', not '570.2'"]
    old = Conditions.model_validate(now.model_dump(exclude={"driver"}))
    assert now.unlike(old) == []

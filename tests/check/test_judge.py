import numpy as np
import pytest
from check_runs import FP32, INT8, images, made, times, wrong_at

from toolchain.check.baseline import make_baseline
from toolchain.check.finding import Finding, Tolerances, overall
from toolchain.check.judge import check
from toolchain.errors import DataError, RecipeError

N = 10_000
LABELS, KEYS = images(N)
ANSWERS = {FP32: wrong_at(LABELS, range(400)), INT8: wrong_at(LABELS, range(430))}  # INT8 loses 0.3 points, knowingly
BASELINE = make_baseline(made(LABELS, KEYS, ANSWERS))


def found(run, baseline=BASELINE, asked=None):
    """Outcome by (engine, quantity), and the sentences."""
    findings = check(run, baseline, asked or Tolerances())
    return {(f.engine, f.what): f.outcome for f in findings}, {(f.engine, f.what): f.told for f in findings}


def with_int8(answers, **changes):
    return made(LABELS, KEYS, {**ANSWERS, INT8: answers}, **changes)


def test_an_unchanged_run_passes_in_everything():
    outcomes, words = found(made(LABELS, KEYS, ANSWERS))
    assert set(outcomes.values()) == {"pass", "not judged"}
    assert [key for key, outcome in outcomes.items() if outcome == "not judged"] == [(FP32, "latency")]
    assert words[INT8, "top-1 against the baseline"] == "95.70 → 95.70 %, 0 images lost and 0 gained of 10,000; no worse"
    assert words[INT8, "top-1 against FP32"].startswith("0.30 points below FP32, the baseline 0.30 points below")
    assert overall(check(made(LABELS, KEYS, ANSWERS), BASELINE, Tolerances())) == "pass"


def test_the_verdict_does_not_depend_on_the_order_of_the_images():
    order = np.random.default_rng(0).permutation(N)
    answers = {**ANSWERS, INT8: wrong_at(LABELS, range(480))}
    shuffled = made(LABELS[order], KEYS[order], {name: given[order] for name, given in answers.items()})
    assert check(shuffled, BASELINE, Tolerances()) == check(made(LABELS, KEYS, answers), BASELINE, Tolerances())


def test_a_drop_is_a_regression_against_the_baseline_and_against_fp32():
    outcomes, words = found(with_int8(wrong_at(LABELS, range(500))))  # 0.7 points more
    assert outcomes[INT8, "top-1 against the baseline"] == outcomes[INT8, "top-1 against FP32"] == "regression"
    assert "95.70 → 95.00 %, 70 images lost and 0 gained" in words[INT8, "top-1 against the baseline"]
    assert outcomes[FP32, "top-1 against the baseline"] == "pass"


def test_a_loss_that_the_recipe_allows_is_none_against_fp32():
    outcomes, words = found(with_int8(wrong_at(LABELS, range(480)), drop=1.0))
    assert outcomes[INT8, "top-1 against FP32"] == "pass"
    assert "0.80 points below FP32, where the recipe allows 1" in words[INT8, "top-1 against FP32"]
    assert outcomes[INT8, "top-1 against the baseline"] == "regression"  # it was 0.3 before
    outcomes, _ = found(with_int8(wrong_at(LABELS, range(700)), drop=1.0))
    assert outcomes[INT8, "top-1 against FP32"] == "regression"


def test_a_loss_as_uncertain_as_the_baselines_and_no_larger_passes():
    few = slice(0, 300)
    labels, keys = LABELS[few], KEYS[few]
    answers = {FP32: wrong_at(labels, range(20)), INT8: wrong_at(labels, range(14, 36))}  # 14 gained, 16 lost
    run = made(labels, keys, answers, drop=0.5)
    outcomes, words = found(run, make_baseline(run))
    assert outcomes[INT8, "top-1 against FP32"] == "pass" and "no more than the baseline's" in words[INT8, "top-1 against FP32"]
    outcomes, _ = found(made(labels, keys, {FP32: answers[FP32], INT8: answers[INT8]}, drop=0.5),
                        make_baseline(made(labels, keys, {FP32: answers[FP32]})))
    assert outcomes[INT8, "top-1 against FP32"] == "not enough evidence"  # a new engine has no baseline


def test_a_small_test_set_says_how_many_images_would_decide():
    labels, keys = LABELS[:500], KEYS[:500]
    before = make_baseline(made(labels, keys, {FP32: wrong_at(labels, range(10))}))
    outcomes, words = found(made(labels, keys, {FP32: wrong_at(labels, range(5, 18))}), before)  # 8 lost, 5 gained
    assert outcomes[FP32, "top-1 against the baseline"] == "not enough evidence"
    said = words[FP32, "top-1 against the baseline"]
    assert "more than the margin of 0.5" in said and "test images would decide" in said
    margin = float(said.split("--margin ")[1].split()[0])
    assert found(made(labels, keys, {FP32: wrong_at(labels, range(5, 18))}), before,
                 Tolerances(margin_points=margin))[0][FP32, "top-1 against the baseline"] == "pass"


def test_a_class_that_is_lost_is_found_where_the_mean_hides_it():
    sevens, wrong = np.flatnonzero(LABELS == 7), np.flatnonzero(ANSWERS[INT8] != LABELS)
    lost = [row for row in sevens if row >= 430][:30]
    answers = ANSWERS[INT8].copy()
    mended = [row for row in wrong if LABELS[row] != 7][:30]
    answers[mended] = LABELS[mended]
    answers[lost] = 3
    outcomes, words = found(with_int8(answers))
    assert outcomes[INT8, "top-1 against the baseline"] == "pass"
    assert outcomes[INT8, "classes"] == "regression" and words[INT8, "classes"].startswith("worse: '7' -")


def test_latency_is_judged_by_its_ratio_to_fp32_and_not_by_milliseconds():
    slow_day = {FP32: times(8, 5), INT8: times(2, 6)}
    assert found(made(LABELS, KEYS, ANSWERS, slow_day))[0][INT8, "latency"] == "pass"
    slower = {FP32: times(4, 5), INT8: times(1.3, 6)}
    outcomes, words = found(made(LABELS, KEYS, ANSWERS, slower))
    assert outcomes[INT8, "latency"] == "regression" and "1.309 times the baseline's time" in words[INT8, "latency"]
    assert found(made(LABELS, KEYS, ANSWERS, slower), asked=Tolerances(latency_percent=50))[0][INT8, "latency"] == "pass"


def test_a_slow_latency_that_is_inconclusive_is_no_regression():
    slower = {FP32: times(4, 5), INT8: times(1.3, 6)}
    doubt = {"verdict": "inconclusive", "causes": ["other processes kept 2.0 of 2 cores busy"], "attempts": 2}
    outcomes, words = found(made(LABELS, KEYS, ANSWERS, slower, validity=doubt))
    assert outcomes[INT8, "latency"] == "not enough evidence"
    assert "but this run was inconclusive (other processes kept 2.0 of 2 cores busy)" in words[INT8, "latency"]


def test_other_conditions_are_said_and_not_judged():
    ms = {FP32: times(4, 5), INT8: times(2, 6)}
    outcomes, words = found(made(LABELS, KEYS, ANSWERS, ms, latency_conditions={"batch": 1, "threads": 8},
                                 peak_memory_bytes=90_000_000))
    assert outcomes[INT8, "latency"] == outcomes[INT8, "peak memory"] == "not judged"
    assert words[INT8, "latency"].endswith("not compared: threads 8, not 2")
    _, words = found(made(LABELS, KEYS, ANSWERS, runtime_version="1.32.0", machine_settings={"governor": "powersave"}))
    assert words[INT8, "latency"].endswith("not compared: runtime version '1.32.0', not '1.31.0', governor 'powersave', not None")
    outcomes, words = found(made(LABELS, KEYS, ANSWERS, ms), asked=Tolerances(latency_percent=None))
    assert outcomes[INT8, "latency"] == "not judged" and words[INT8, "latency"].endswith("not judged, as asked")
    other = BASELINE.model_copy(update={"engines": {**BASELINE.engines, INT8: BASELINE.engines[INT8].model_copy(
        update={"latency_reference": "fp32.openvino.cpu_x86"})}})
    assert "its ratio to fp32.openvino.cpu_x86, this to" in found(made(LABELS, KEYS, ANSWERS, ms), other)[1][INT8, "latency"]
    assert outcomes[INT8, "top-1 against the baseline"] == "pass"


def test_sizes_and_memory_have_their_tolerances():
    outcomes, words = found(made(LABELS, KEYS, ANSWERS, engine_bytes=1_009_000, weight_bytes=910_000,
                                 peak_memory_bytes=62_000_000))
    assert (outcomes[INT8, "engine file"], outcomes[INT8, "weights"], outcomes[INT8, "peak memory"]) == (
        "pass", "regression", "pass")
    assert words[INT8, "weights"] == "900,000 → 910,000 bytes (+1.1 %)"
    assert found(made(LABELS, KEYS, ANSWERS, peak_memory_bytes=63_000_000))[0][INT8, "peak memory"] == "regression"
    small = make_baseline(made(LABELS, KEYS, ANSWERS, peak_memory_bytes=3_000_000))  # twice as much, and 3 MB
    assert found(made(LABELS, KEYS, ANSWERS, peak_memory_bytes=6_000_000), small)[0][INT8, "peak memory"] == "pass"


def test_engines_that_are_new_gone_or_not_measured_are_said():
    alone = {FP32: ANSWERS[FP32]}
    outcomes, words = found(made(LABELS, KEYS, alone))
    assert outcomes[INT8, "engine"] == "not enough evidence" and "is its runtime installed here?" in words[INT8, "engine"]
    outcomes, words = found(made(LABELS, KEYS, ANSWERS), make_baseline(made(LABELS, KEYS, alone)))
    assert (outcomes[INT8, "engine"], words[INT8, "engine"]) == ("not judged", "new: the baseline has none")
    other = make_baseline(made(LABELS, KEYS, ANSWERS)).model_copy(update={"recipe_sha256": "00"})
    outcomes, words = found(made(LABELS, KEYS, alone), other)
    assert outcomes[INT8, "engine"] == "not enough evidence" and "whose recipe is another" in words[INT8, "engine"]


def test_an_engine_that_can_no_longer_be_built_is_a_regression():
    run = made(LABELS, KEYS, {FP32: ANSWERS[FP32]})
    gone = run.report.engines[0].model_copy(update={
        "name": INT8, "built": False, "measured": False, "reason": "cannot be built: no kernel", "latency_ms": None})
    run.report.engines.append(gone)
    outcomes, words = found(run)
    assert outcomes[INT8, "engine"] == "regression" and words[INT8, "engine"] == "cannot be built: no kernel; the baseline has it"


def test_other_images_are_refused_in_words():
    labels, keys = images(N, seed=1)
    with pytest.raises(DataError, match="was made with other test images than this run .*not the same ones"):
        check(made(labels, keys, {FP32: labels}), BASELINE, Tolerances())
    with pytest.raises(DataError, match="10,000 and 500 of them"):
        check(made(LABELS[:500], KEYS[:500], {FP32: LABELS[:500]}), BASELINE, Tolerances())
    with pytest.raises(DataError, match="the same test images with other labels"):
        check(made(wrong_at(LABELS, [0]), KEYS, ANSWERS), BASELINE, Tolerances())


def test_wrong_tolerances_are_all_named_at_once():
    with pytest.raises(RecipeError, match=r"--margin 0: expected above 0, at most 100; --alpha 0.7: .*; --size -1"):
        Tolerances(margin_points=0, alpha=0.7, size_percent=-1)


def test_the_outcome_is_the_worst_there_is_and_nothing_judged_is_no_evidence():
    def those(*outcomes):
        return overall(Finding("e", "w", outcome, "") for outcome in outcomes)

    assert those("pass", "not judged") == "pass"
    assert those("pass", "not enough evidence", "not judged") == "not enough evidence"
    assert those("regression", "not enough evidence", "pass") == "regression"
    assert those("not judged") == those() == "not enough evidence"

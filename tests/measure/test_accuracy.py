import hashlib
import math

import numpy as np
import pytest

from toolchain.errors import DataError, EngineError
from toolchain.measure.accuracy import (
    Predictions,
    accuracy,
    agreement_percent,
    check_logits,
    image_keys,
    keyed,
    predict,
    top1_change,
    top_classes,
    wilson_interval,
)

LABELS = np.array([0, 1, 2], np.int64)


def pixels(n):
    """(n, 1, 1, 1) images whose only pixel is their index."""
    return np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)


def batches_of(labels, size):
    x = pixels(len(labels))
    return ((x[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size))


def test_top_classes_are_ordered_by_logit_and_ties_by_class():
    logits = np.array([[0.1, 0.9, 0.9, 0.5, -1.0, 0.2]], np.float32)
    assert top_classes(logits).tolist() == [[1, 2, 3, 5, 0]]
    assert top_classes(logits[:, :3]).tolist() == [[1, 2, 0]]


def test_top1_and_top5_of_four_answers_counted_by_hand():
    top = np.array([[0, 1, 2, 3, 4], [5, 1, 2, 3, 4], [6, 7, 8, 9, 0], [3, 0, 1, 2, 4]])
    result = accuracy(Predictions(top), np.array([0, 1, 1, 3]))
    assert result["top1_percent"] == 50.0  # images 0 and 3
    assert result["top5_percent"] == 75.0  # image 1 is second best; image 2 is not among the five


def test_top5_of_three_classes_is_no_measurement():
    assert accuracy(Predictions(np.array([[0, 1, 2]])), np.array([0]))["top5_percent"] is None


def test_the_wilson_interval_of_8_of_10_is_the_published_one():
    """Centre (p + z²/2n) / (1 + z²/n) = 0.716740, half width 0.226577 for z = 1.959964."""
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(49.0162, abs=1e-3), pytest.approx(94.3318, abs=1e-3))


def test_the_wilson_interval_of_all_right_ends_at_100_and_is_not_empty():
    low, high = wilson_interval(360, 360)
    z2 = 1.959963984540054**2
    assert high == pytest.approx(100.0)
    assert low == pytest.approx(100 * 360 / (360 + z2))  # p = 1: (1 + z²/2n - z²/2n) / (1 + z²/n)


def test_agreement_counts_equal_answers_right_or_wrong():
    ours, theirs = Predictions(np.array([[0], [1], [2], [3]])), Predictions(np.array([[0], [1], [2], [0]]))
    assert agreement_percent(ours, theirs) == 75.0


def test_every_engine_answers_every_image_whatever_the_batch(stub):
    engines = {"a": stub(np.eye(3)), "b": stub(np.eye(3)[::-1])}
    told = []
    for size in (1, 2, 3):
        found = predict(engines, batches_of(LABELS, size), LABELS, 3, told.append)
        assert found["a"].answers.tolist() == [0, 1, 2] and found["b"].answers.tolist() == [2, 1, 0]
    assert sum(told) == 3 * 2 * 3


def test_nan_logits_name_the_engine_and_how_many_images(stub):
    logits = np.eye(3)
    logits[1, 2] = np.nan
    with pytest.raises(EngineError, match="int8.x.y: its logits are NaN or infinite for 1 of 3 images"):
        predict({"int8.x.y": stub(logits)}, batches_of(LABELS, 3), LABELS, 3)


def test_another_class_count_is_refused_with_both_numbers():
    logits = np.zeros((3, 1000), np.float32)
    with pytest.raises(EngineError, match="found 1000 outputs, expected 3"):
        check_logits("e", logits, 3, LABELS, 3)
    with pytest.raises(EngineError, match="found 2 outputs, expected 3"):
        check_logits("e", logits[:, :2], 3, LABELS, None)
    check_logits("e", logits, 3, LABELS, None)  # more outputs than labels seen: not known to be wrong


def test_an_output_that_is_no_table_of_logits_is_refused():
    with pytest.raises(EngineError, match=r"shape \(3, 10, 1, 1\), expected \(3, classes\)"):
        check_logits("e", np.zeros((3, 10, 1, 1), np.float32), 3, LABELS, None)


def test_labels_in_another_order_or_too_few_are_noticed(stub):
    with pytest.raises(DataError, match="labels are not those of the split"):
        predict({"a": stub(np.eye(3))}, batches_of(LABELS[::-1].copy(), 2), LABELS, 3)
    with pytest.raises(DataError, match="found 2 images, expected 3"):
        predict({"a": stub(np.eye(3))}, batches_of(LABELS[:2], 2), LABELS, 3)


def test_the_change_of_top1_is_paired():
    """Of 1000 images 30 are lost and 10 are won: -2 points; images both answer alike add no uncertainty."""
    labels = np.zeros(1000, np.int64)
    reference = np.zeros((1000, 1), np.int64)
    ours = reference.copy()
    reference[:10], ours[10:40] = 1, 1
    change = top1_change(Predictions(ours), Predictions(reference), labels, seed=0)
    assert change["value"] == pytest.approx(-2.0)
    error = 100 * math.sqrt((0.04 - 0.02**2) / 1000)  # of the mean of values -1, 0, 1
    assert change["low"] == pytest.approx(-2 - 1.96 * error, abs=0.15)
    assert change["high"] == pytest.approx(-2 + 1.96 * error, abs=0.15)
    same = top1_change(Predictions(ours), Predictions(ours), labels, seed=0)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_an_image_has_the_same_key_in_any_order_and_batch():
    images = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    first = hashlib.sha256(images[0].tobytes()).digest()[:8]
    assert int(image_keys(images)[0]) == int.from_bytes(first, "little")
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        for size in (1, 2, 5):
            keys = []
            passed = [len(batch) for batch, _ in keyed(
                ((images[order][i : i + size], np.zeros(size)) for i in range(0, 5, size)), keys)]
            assert sum(passed) == 5
            assert np.concatenate(keys).tolist() == image_keys(images)[order].tolist()
    assert image_keys(images.transpose(0, 1, 3, 2)).tolist() != image_keys(images).tolist()

import math

import numpy as np
import pytest

from toolchain.errors import DataError, EngineError
from toolchain.measure import fidelity
from toolchain.measure.fidelity import (
    agree,
    engine_logits,
    fidelity_of,
    jitter_drop,
    js_nats,
    kl_epsilon_nats,
    kl_nats,
    per_image,
    teacher_of,
)

LN2, LN3 = math.log(2.0), math.log(3.0)
TEACHER = np.array([[LN3, 0.0]], np.float32)  # probabilities 3/4, 1/4
STUDENT = np.array([[5.0, 5.0]], np.float32)  # 1/2, 1/2
LABELS = np.array([0, 1, 2], np.int64)


def random_logits(n=50, k=7, seed=0, size=3.0):
    return (size * np.random.default_rng(seed).standard_normal((n, k))).astype(np.float32)


def batches_of(labels, size):
    pixels = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return ((pixels[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size))


def probabilities(row):
    """Plain softmax in Python's floats."""
    powers = [math.exp(float(value) - float(max(row))) for value in row]
    return [power / sum(powers) for power in powers]


def test_kl_is_from_teacher_to_student_worked_by_hand():
    assert kl_nats(TEACHER, STUDENT)[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert kl_nats(STUDENT, TEACHER)[0] == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2.0), rel=1e-6)


def test_js_of_3_4_and_1_2_worked_by_hand():
    """The middle of (3/4, 1/4) and (1/2, 1/2) is (5/8, 3/8)."""
    first = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    second = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    assert js_nats(TEACHER, STUDENT)[0] == pytest.approx((first + second) / 2, rel=1e-6)
    assert js_nats(STUDENT, TEACHER)[0] == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_network_is_at_no_distance_from_itself_or_from_shifted_logits():
    logits = random_logits()
    for name, values in per_image(logits + np.float32(2), logits).items():
        if name == "agree":
            assert values.all()
        else:
            assert values == pytest.approx(np.zeros(50), abs=1e-6) and (values >= 0).all()
    assert (kl_nats(logits, logits) == 0).all() and (kl_epsilon_nats(logits, logits) == 0).all()


def test_the_epsilon_form_equals_plain_arithmetic_on_probabilities():
    teacher, student = random_logits(seed=1), random_logits(seed=2, size=12.0)
    expected = []
    for rows in zip(teacher, student, strict=True):
        p, q = ([(one + 1e-10) / (1 + 7e-10) for one in probabilities(row)] for row in rows)  # 7 classes
        expected.append(math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    assert kl_epsilon_nats(teacher, student) == pytest.approx(np.array(expected), rel=1e-9)


def test_extreme_logits_are_exact_where_the_epsilon_form_has_a_ceiling():
    """Sure of different classes by 1000: KL = 1000; with e added, (1 + e, e) / (1 + 2e) against (e, 1 + e) / (1 + 2e)
    is ln((1 + e) / e) / (1 + 2e) = 23.03; JS is ln 2."""
    teacher, student = np.array([[1000.0, 0.0]], np.float32), np.array([[0.0, 1000.0]], np.float32)
    e = 1e-10
    assert kl_nats(teacher, student)[0] == 1000.0
    assert kl_epsilon_nats(teacher, student)[0] == pytest.approx(math.log((1 + e) / e) / (1 + 2 * e), rel=1e-12)
    assert js_nats(teacher, student)[0] == pytest.approx(LN2, rel=1e-12)


def test_the_largest_float32_logits_stay_finite():
    teacher, student = np.array([[3e38, -3e38]], np.float32), np.array([[-3e38, 3e38]], np.float32)
    assert all(np.isfinite(values).all() for values in per_image(student, teacher).values())
    assert kl_nats(teacher, student)[0] == pytest.approx(6e38, rel=1e-6)


def test_float64_keeps_what_float32_would_lose():
    """Logits (d, 0) against (0, 0): KL = d²/8 to second order; with d = 1e-4 it is below float32's rounding."""
    teacher, student = np.array([[1e-4, 0.0]], np.float32), np.zeros((1, 2), np.float32)
    assert kl_nats(teacher, student)[0] == pytest.approx(1.25e-9, rel=1e-5)


def test_rows_are_taken_in_portions_without_a_seam(monkeypatch):
    teacher, student = random_logits(seed=1), random_logits(seed=2)
    whole = kl_nats(teacher, student)
    monkeypatch.setattr(fidelity, "ROWS", 7)
    assert (kl_nats(teacher, student) == whole).all() and whole.shape == (50,)


def test_agreement_is_about_the_highest_logit_alone():
    teacher = np.array([[3.0, 1.0], [0.0, 1.0], [2.0, 2.0]], np.float32)
    student = np.array([[0.2, 0.1], [5.0, 1.0], [1.0, 1.0]], np.float32)
    assert agree(teacher, student).tolist() == [True, False, True]


def test_the_row_of_fidelity_json_has_means_intervals_and_percent():
    teacher = np.repeat(TEACHER, 4, axis=0)
    student = np.array([[LN3, 0.0], [LN3, 0.0], [LN3, 0.0], [0.0, LN3]], np.float32)  # the last one mirrored
    row = fidelity_of("fp32.ort", student, teacher, np.array([0, 0, 1, 1]), seed=0)
    assert list(row) == ["name", "top1_percent", "kl_nats", "kl_epsilon_nats", "js_nats", "agreement_percent"]
    assert row["name"] == "fp32.ort" and row["top1_percent"] == 75.0
    mirrored = 0.75 * LN3 - 0.25 * LN3  # 3/4 ln 3 + 1/4 ln 1/3
    assert row["kl_nats"]["value"] == pytest.approx(mirrored / 4, rel=1e-6)
    assert row["kl_epsilon_nats"] == pytest.approx(mirrored / 4, rel=1e-6)
    assert row["agreement_percent"]["value"] == 75.0
    assert row["agreement_percent"]["low"] < 75 <= row["agreement_percent"]["high"] <= 100
    assert teacher_of("vgg16", teacher, np.zeros(4, np.int64))["top1_percent"] == 100.0


def test_the_drop_on_jittered_images_is_paired():
    """Four images: right before, two of them wrong after, none won."""
    clean = np.array([[1.0, 0.0]] * 4, np.float32)
    jittered = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    row = jitter_drop("s", clean, jittered, np.zeros(4, np.int64), seed=0)
    assert row["top1_percent"] == 50.0 and row["drop"]["value"] == 50.0


def test_other_classes_or_another_test_set_are_refused():
    with pytest.raises(DataError, match=r"shapes \(3, 10\) \(teacher\) and \(3, 100\) \(student\)"):
        kl_nats(np.zeros((3, 10), np.float32), np.zeros((3, 100), np.float32))
    with pytest.raises(DataError, match="use a teacher of the same classes and the same test set"):
        agree(np.zeros((3, 10), np.float32), np.zeros((4, 10), np.float32))


def test_logits_that_are_not_finite_name_whose_they_are():
    with pytest.raises(EngineError, match="the student's logits are NaN or infinite for 1 of 1 images"):
        kl_nats(TEACHER, np.array([[np.inf, 0.0]], np.float32))


def test_every_engine_gives_its_logits_in_the_order_of_the_split(stub):
    teacher, student = np.eye(3, dtype=np.float32), np.arange(9, dtype=np.float32).reshape(3, 3)
    for size in (1, 2, 3):
        told = []
        found = engine_logits({"t": stub(teacher), "s": stub(student)}, batches_of(LABELS, size), LABELS, 3, told.append)
        assert (found["t"] == teacher).all() and (found["s"] == student).all() and found["s"].dtype == np.float32
        assert sum(told) == 6


def test_a_test_set_in_another_order_or_cut_short_is_noticed(stub):
    with pytest.raises(DataError, match="test images 0 to 2: their labels are not those of the split"):
        engine_logits({"t": stub(np.eye(3))}, batches_of(LABELS[::-1].copy(), 2), LABELS, 3)
    with pytest.raises(DataError, match="found 2 images, expected 3"):
        engine_logits({"t": stub(np.eye(3))}, batches_of(LABELS[:2], 2), LABELS, 3)
    with pytest.raises(EngineError, match="t: found 3 outputs, expected 10"):
        engine_logits({"t": stub(np.eye(3))}, batches_of(LABELS, 3), LABELS, 10)

"""Fidelity: how near a student's answers are to its teacher's, image by image, on the same ordered test set.

KL(teacher || student) at temperature 1, in nats, exactly and in the studies' form with 1e-10 added to every
probability; the Jensen-Shannon divergence (Lin 1991); and how often both answer alike. All of it from logits, in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.engines.protocol import Images, Logits
from toolchain.errors import DataError, EngineError
from toolchain.measure.accuracy import Answers, answered, percent, wilson_interval
from toolchain.measure.statistics import paired_interval

EPSILON = 1e-10  # the studies' addition to every probability
ROWS = 4096  # images whose logits are widened to float64 at a time
PerImage = NDArray[np.float64]  # (N,)


def engine_logits(
    engines: Mapping[str, Answers], batches: Iterable[tuple[Images, NDArray[np.int64]]], labels: NDArray[np.int64],
    classes: int | None = None, advance: Callable[[int], None] = lambda images: None,
) -> dict[str, Logits]:
    """Every engine's logits (N, K) float32 for the whole test set, each batch decoded once and given to all.

    batches: (images (n, C, H, W) float32, labels (n,)), in the order of `labels` (N,): teacher and student are only
    comparable image by image. classes: of the dataset; None: not known. advance: told how many more images one engine
    has answered. Raises DataError (the batches are not those of `labels`), EngineError (as `check_logits`).
    """
    parts: dict[str, list[Logits]] = {name: [] for name in engines}
    for name, logits in answered(engines, batches, labels, classes, advance):
        parts[name].append(np.asarray(logits, np.float32))
    return {name: np.concatenate(of_one) for name, of_one in parts.items()}


def kl_nats(teacher: Logits, student: Logits) -> PerImage:
    """(N,) KL(teacher || student) of logits (N, K); exact and finite for any finite logits."""
    return _by_rows(_kl, teacher, student)


def mean_kl(teacher: Logits, student: Logits) -> float:
    """Mean over the images of `kl_nats`, of logits (N, K)."""
    return float(kl_nats(teacher, student).mean())


def kl_epsilon_nats(teacher: Logits, student: Logits) -> PerImage:
    """(N,) the studies' form: EPSILON is added to every probability of both, which are then normalised again.

    One class contributes at most about p ln(p / 1e-10) <= 23 nats, so it is below the exact value for a student that
    is sure of something else.
    """
    return _by_rows(_kl_epsilon, teacher, student)


def js_nats(teacher: Logits, student: Logits) -> PerImage:
    """(N,) Jensen-Shannon divergence, from 0 to ln 2; the same in both directions."""
    return _by_rows(_js, teacher, student)


def agree(teacher: Logits, student: Logits) -> NDArray[np.bool_]:
    """(N,) whether both have their highest logit at the same class, right or wrong; the first of equal ones."""
    _check_pair(teacher, student)
    return teacher.argmax(axis=1) == student.argmax(axis=1)


def per_image(logits: Logits, teacher_logits: Logits) -> dict[str, NDArray[Any]]:
    """Arrays (N,) by name: kl_nats, kl_epsilon_nats, js_nats, agree. What `fidelity_of` sums up."""
    return {"kl_nats": kl_nats(teacher_logits, logits), "kl_epsilon_nats": kl_epsilon_nats(teacher_logits, logits),
            "js_nats": js_nats(teacher_logits, logits), "agree": agree(teacher_logits, logits)}


def fidelity_of(
    name: str, logits: Logits, teacher_logits: Logits, labels: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """One row of fidelity.json's `engines`; intervals are bootstrap 95 % over the test images.

    logits, teacher_logits: (N, K), of the same images in the same order. labels: (N,). Raises DataError, EngineError.
    """
    found = per_image(logits, teacher_logits)
    return {"name": name, "top1_percent": percent(logits.argmax(axis=1) == labels),
            "kl_nats": paired_interval(found["kl_nats"], seed),
            "kl_epsilon_nats": float(found["kl_epsilon_nats"].mean()), "js_nats": float(found["js_nats"].mean()),
            "agreement_percent": paired_interval(100.0 * found["agree"], seed)}


def teacher_of(name: str, logits: Logits, labels: NDArray[np.int64]) -> dict[str, Any]:
    """fidelity.json's `teacher`: its top-1 in percent with a 95 % interval. logits: (N, K). labels: (N,)."""
    right = logits.argmax(axis=1) == labels
    return {"name": name, "top1_percent": percent(right),
            "top1_interval": list(wilson_interval(int(right.sum()), len(labels)))}


def jitter_drop(
    name: str, clean: Logits, jittered: Logits, labels: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """One row of fidelity.json's `jitter.engines`: top-1 on jittered images, and what it lost, in points.

    clean, jittered: (N, K) logits of the same images before and after the jitter. labels: (N,). Raises DataError.
    """
    _check_pair(clean, jittered)
    before, after = clean.argmax(axis=1) == labels, jittered.argmax(axis=1) == labels
    return {"name": name, "top1_percent": percent(after),
            "drop": paired_interval(100.0 * (before.astype(np.float64) - after), seed)}


def _by_rows(
    divergence: Callable[[NDArray[np.float64], NDArray[np.float64]], PerImage], teacher: Logits, student: Logits
) -> PerImage:
    """`divergence` of log-probabilities, some rows at a time: float64 copies of all logits need not fit in memory."""
    _check_pair(teacher, student)
    starts = range(0, len(teacher), ROWS)
    return np.concatenate([divergence(_log_softmax(teacher[i : i + ROWS]), _log_softmax(student[i : i + ROWS]))
                           for i in starts])


def _check_pair(teacher: Logits, student: Logits) -> None:
    if teacher.shape != student.shape or teacher.ndim != 2 or not teacher.size:
        raise DataError(f"fidelity: found logits of shapes {teacher.shape} (teacher) and {student.shape} (student), "
                        "expected (images, classes) for both; use a teacher of the same classes and the same test set")
    for who, logits in (("teacher", teacher), ("student", student)):
        if not np.isfinite(logits).all():
            raise EngineError(f"fidelity: the {who}'s logits are NaN or infinite for "
                              f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {len(logits)} images; expected "
                              "finite ones: use a format of a larger range, such as bf16 or fp32")


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    wide = np.asarray(logits, np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _kl(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> PerImage:
    # The sum is never negative; rounding may leave -1e-17 of it.
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)


def _kl_epsilon(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> PerImage:
    p, q = np.exp(log_p) + EPSILON, np.exp(log_q) + EPSILON
    return _kl(np.log(p / p.sum(axis=1, keepdims=True)), np.log(q / q.sum(axis=1, keepdims=True)))


def _js(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> PerImage:
    log_middle = np.logaddexp(log_p, log_q) - np.log(2.0)
    return (_kl(log_p, log_middle) + _kl(log_q, log_middle)) / 2

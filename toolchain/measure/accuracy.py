"""Accuracy: what an engine answers on the whole test set, and how sure we can be of the share that is right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.engines.protocol import Images, Logits
from toolchain.errors import DataError, EngineError

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile
TOP = 5


class Answers(Protocol):
    """Whatever gives logits for images: an engine that is open, or a network behind the same method."""

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) of images (N, C, H, W) float32."""


@dataclass(frozen=True)
class Predictions:
    """Answers of one engine. top: (N, min(5, K)) int64 classes, best first."""

    top: NDArray[np.int64]

    @property
    def answers(self) -> NDArray[np.int64]:
        """(N,) the class with the highest logit."""
        return self.top[:, 0]


def top_classes(logits: Logits, k: int = TOP) -> NDArray[np.int64]:
    """(N, min(k, K)) classes by falling logit; equal logits in order of class."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(np.int64)


def image_keys(images: Images) -> NDArray[np.uint64]:
    """(N,) one key per normalized image (N, C, H, W) float32: the first 8 bytes of its SHA-256.

    The same image has the same key in any order and batch, so that two runs can be compared image by image.
    """
    digests = (hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).digest() for image in images)
    return np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64)


def keyed(
    batches: Iterable[tuple[Images, NDArray[np.int64]]], keys: list[NDArray[np.uint64]]
) -> Iterator[tuple[Images, NDArray[np.int64]]]:
    """The same batches; the keys of each one's images are appended to `keys` as it passes."""
    for images, labels in batches:
        keys.append(image_keys(images))
        yield images, labels


def predict(
    engines: Mapping[str, Answers], batches: Iterable[tuple[Images, NDArray[np.int64]]], labels: NDArray[np.int64],
    classes: int | None, advance: Callable[[int], None] = lambda images: None,
) -> dict[str, Predictions]:
    """Every engine's answers to every batch, each batch decoded once.

    batches: (images (n, C, H, W) float32, labels (n,)), in the order of `labels` (N,). classes: how many the dataset
    has; None: not known. advance: told how many more images one engine has answered.
    Raises EngineError (NaN or infinite logits, wrong class count), DataError (the batches are not those of `labels`).
    """
    tops: dict[str, list[NDArray[np.int64]]] = {name: [] for name in engines}
    for name, logits in answered(engines, batches, labels, classes, advance):
        tops[name].append(top_classes(logits))
    return {name: Predictions(np.concatenate(parts)) for name, parts in tops.items()}


def answered(
    engines: Mapping[str, Answers], batches: Iterable[tuple[Images, NDArray[np.int64]]], labels: NDArray[np.int64],
    classes: int | None, advance: Callable[[int], None],
) -> Iterator[tuple[str, Logits]]:
    """(engine, its logits (n, K)) batch by batch, every engine before the next batch; all else as in `predict`.

    All answer the same images in the order of `labels`, so that they are comparable image by image.
    """
    seen = 0
    for images, given in batches:
        if not np.array_equal(given, labels[seen : seen + len(given)]):
            raise DataError(f"test images {seen} to {seen + len(given)}: their labels are not those of the split")
        seen += len(given)
        for name, engine in engines.items():
            logits = engine.infer(images)
            check_logits(name, logits, len(images), labels, classes)
            yield name, logits
            advance(len(images))
    if seen != len(labels) or seen == 0:
        raise DataError(f"test split: found {seen} images, expected {len(labels)}")


def check_logits(name: str, logits: Logits, images: int, labels: NDArray[np.int64], classes: int | None) -> None:
    """Raise EngineError unless logits are finite, (images, K), and K fits the dataset."""
    if logits.ndim != 2 or len(logits) != images:
        raise EngineError(f"{name}: found an output of shape {logits.shape}, expected ({images}, classes)")
    expected = classes if classes is not None else int(labels.max()) + 1
    if logits.shape[1] != expected if classes is not None else logits.shape[1] < expected:
        raise EngineError(f"{name}: found {logits.shape[1]} outputs, expected {expected} as the dataset has classes; "
                          "use the dataset this network was trained on")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise EngineError(f"{name}: its logits are NaN or infinite for {bad} of {images} images; if the fp32 engine's "
                          "are not, its range is too small for the network: use bf16, or another calibrator")


def percent(right: NDArray[np.bool_]) -> float:
    """Share of true values, in percent."""
    return 100.0 * float(np.mean(right))


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, in percent (Wilson 1927, eq. 1): right even for shares near 0 and 1."""
    p, z2 = right / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def accuracy(predictions: Predictions, labels: NDArray[np.int64]) -> dict[str, object]:
    """top1_percent, top1_interval (95 %) and top5_percent (null below five classes) of answers to labels (N,)."""
    right = predictions.answers == labels
    among = (predictions.top == labels[:, None]).any(axis=1)
    return {"top1_percent": percent(right), "top1_interval": list(wilson_interval(int(right.sum()), len(labels))),
            "top5_percent": percent(among) if predictions.top.shape[1] == TOP else None}


def agreement_percent(predictions: Predictions, reference: Predictions) -> float:
    """Share of images that both answer alike, right or wrong, in percent."""
    return percent(predictions.answers == reference.answers)


def top1_change(
    predictions: Predictions, reference: Predictions, labels: NDArray[np.int64], seed: int, resamples: int = 2000,
) -> dict[str, float]:
    """Top-1 minus the reference's, in points, with a paired bootstrap 95 % interval over the test images."""
    difference = (predictions.answers == labels).astype(float) - (reference.answers == labels)
    shares = [np.mean(difference == value) for value in (-1, 0, 1)]
    drawn = np.random.default_rng(seed).multinomial(len(labels), shares, size=resamples)  # with replacement
    changes = 100 * (drawn[:, 2] - drawn[:, 0]) / len(labels)
    low, high = np.quantile(changes, [0.025, 0.975])
    return {"value": 100 * float(difference.mean()), "low": float(low), "high": float(high)}

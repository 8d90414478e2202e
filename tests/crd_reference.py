"""CRD as the paper's formulas read, in numpy loops over images and negatives, and a small case to run it on.

Analytic in every input, so that a complex step gives exact derivatives: Im f(x + ih) / h (Squire, Trapp 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

EPS = 1e-7


@dataclass
class Reference:
    """Banks, linear layers and both Z; `step` returns the loss of a batch and moves the banks."""

    student_bank: NDArray
    teacher_bank: NDArray
    linears: dict[str, tuple[NDArray, NDArray]]  # "student", "teacher" -> weight (dim, D), bias (dim,)
    tau: float
    momentum: float
    z: dict[str, float] = field(default_factory=dict)

    def step(self, student, teacher, indices, positives, negatives):
        """student, teacher: (B, D) features. Returns the loss; the banks and, the first time, Z change."""
        images = len(self.student_bank)
        side = {"student": (student, self.teacher_bank), "teacher": (teacher, self.student_bank)}
        embedded = {name: [unit(self.linears[name][0] @ row + self.linears[name][1]) for row in features]
                    for name, (features, _) in side.items()}
        total = 0.0
        for name, (_, bank) in side.items():
            u = [[np.exp(bank[j] @ e / self.tau) for j in [positive, *others]]
                 for e, positive, others in zip(embedded[name], positives, negatives, strict=True)]
            if name not in self.z:
                self.z[name] = float(np.mean(np.real(u))) * images
            total = total + one_side(u, self.z[name], images)
        for name, bank in (("student", self.student_bank), ("teacher", self.teacher_bank)):
            for i, e in zip(indices, embedded[name], strict=True):
                bank[i] = unit(self.momentum * bank[i] + (1 - self.momentum) * np.real(e))
        return total


def one_side(u, z, images):
    """-(1/B) sum over images of log(P/(P + c + eps)) for the positive and log(c/(P + c + eps)) for K negatives."""
    total = 0.0
    for positive, *others in u:
        c = len(others) / images
        total = total + np.log(positive / z / (positive / z + c + EPS))
        for other in others:
            total = total + np.log(c / (other / z + c + EPS))
    return -total / len(u)


def unit(vector):
    return vector / np.sqrt((vector * vector).sum())


@dataclass(frozen=True)
class Case:
    """Two batches of features and draws for 12 images of 3 classes; label = index % 3."""

    images: int
    dim: int
    negatives: int
    features: dict[str, NDArray]  # "student", "teacher" -> (steps, B, D)
    indices: NDArray  # (steps, B)
    drawn: NDArray  # (steps, B, K)


def case(negatives: int, steps: int = 2, batch: int = 4) -> Case:
    """Features around 1, and negatives of other classes, the first one twice."""
    random = np.random.default_rng(negatives)
    indices = np.stack([random.permutation(12)[:batch] for _ in range(steps)])
    drawn = np.array([[random.choice([j for j in range(12) if j % 3 != i % 3], negatives) for i in row]
                      for row in indices])
    drawn[:, :, 1] = drawn[:, :, 0]
    features = {"student": random.normal(size=(steps, batch, 5)), "teacher": random.normal(size=(steps, batch, 7))}
    return Case(12, 16, negatives, features, indices, drawn)

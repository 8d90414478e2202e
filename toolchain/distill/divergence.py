"""KL divergence between softened predictions, the quantity that most methods are made of."""

from __future__ import annotations

from torch import Tensor


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher || student) over the batch, in nats (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

    student_logits, teacher_logits: (N, K) before softmax; no gradient reaches the teacher. Half precision is computed
    in float32, float64 stays. Returns: () scaled by temperature**2, so that its gradient, T (q - p) / N, stays
    comparable with the label loss.
    """
    student = (at_least_float32(student_logits) / temperature).log_softmax(dim=1)
    teacher = (at_least_float32(teacher_logits.detach()) / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values if values.dtype.itemsize >= 4 else values.float()

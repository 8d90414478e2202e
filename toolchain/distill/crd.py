"""Contrastive representation distillation (Tian, Krishnan, Isola 2020, arXiv:1910.10699), with memory banks.

A student's embedding should be closer to the teacher's embedding of the same image than to those of images of other
classes, and the other way round. Both are read from memory banks, so that thousands of negatives cost no forward pass.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.data.loader import Batch
from toolchain.distill.class_draws import ClassDraws
from toolchain.distill.embeddings import Embeddings, embeddings_for
from toolchain.distill.features import Outputs
from toolchain.distill.memory_banks import MemoryBanks
from toolchain.distill.objective import Setting, objective
from toolchain.recipe.distill import Crd

if TYPE_CHECKING:
    from toolchain.train import Loss

EPS = 1e-7  # of the authors' code, beside the noise term c


class Draw(NamedTuple):
    """Rows of the banks that a batch is compared with, the same for both sides."""

    positives: Tensor  # int64 (B,)
    negatives: Tensor  # int64 (B, K), a row may come twice
    counts: Tensor | None  # (B, n): how often each row was drawn; None: compare with the K rows one by one


class Scores(NamedTuple):
    """Log scores, similarity / tau."""

    positive: Tensor  # (B,)
    negative: Tensor  # (B, M)
    counts: Tensor  # (B, M): how often each negative was drawn, K in all; (): each column is one draw


def nce_loss(scores: Scores, log_z: Tensor, negatives: int, images: int) -> Tensor:
    """One side of the loss (the paper's eq. 18 as its authors' code has it), in nats.

    log_z: (), log of the constant Z. negatives: K. images: n, the size of the bank. With P = exp(score) / Z and
    c = K / n: -(1/B) sum_i [log(P/(P + c + eps)) of the positive + sum over its K negatives of log(c/(P + c + eps))],
    a sum over negatives and a mean over the batch only. Returns ().
    """
    noise = negatives / images
    offset = log_z + math.log(noise + EPS)  # log(P/(P + c + eps)) = logsigmoid(score - offset): no score overflows
    positive = F.logsigmoid(scores.positive - offset)
    negative = (F.logsigmoid(offset - scores.negative) * scores.counts).sum(dim=1)
    return -(positive + negative).mean() - negatives * math.log(noise / (noise + EPS))


@torch.no_grad()
def log_mean_score(scores: Scores, negatives: int) -> Tensor:
    """log of the mean of exp(score) over the batch's B * (1 + K) scores. Returns ()."""
    every = torch.cat([scores.positive, (scores.negative + scores.counts.log()).flatten()])
    return every.logsumexp(dim=0) - math.log(len(scores.positive) * (1 + negatives))


def draw(positives: Tensor, negatives: Tensor, bank: Tensor) -> Draw:
    """The rows to compare with, and the cheaper way to do it.

    Gathering K rows per image moves B * K * dim numbers (0.5 GB a side at B 64, K 16384, dim 128). Comparing with the
    whole bank instead, each row as often as it was drawn, gives the same sums from some 8 * B * n numbers; and its
    gradient is a plain product, where a gathered score's would be added up in an order that varies on a GPU.
    """
    images, dim = bank.shape
    if 8 * images > negatives.shape[1] * dim:
        return Draw(positives, negatives, None)
    counts = bank.new_zeros(len(negatives), images)
    return Draw(positives, negatives, counts.scatter_add_(1, negatives, counts.new_ones(()).expand_as(negatives)))


def bank_scores(embedding: Tensor, bank: Tensor, drawn: Draw, tau: float) -> Scores:
    """Scores of embeddings (B, dim) of unit length against a bank (n, dim), which gets no gradient and may be written
    to before backward."""
    scaled = embedding / tau
    positive = (scaled * bank[drawn.positives]).sum(dim=1)
    if drawn.counts is None:
        return Scores(positive, torch.einsum("bkd,bd->bk", bank[drawn.negatives], scaled), bank.new_ones(()))
    return Scores(positive, scaled @ bank.clone().T, drawn.counts)


def crd(cfg: Crd, setting: Setting) -> Loss:
    """ce_weight * CE + weight * the contrastive loss + kd_weight * soft targets.

    The embeddings are trained beside the student, the banks kept in checkpoints; neither is exported. Raises TrainError
    for a dataset of one class, a layer that does not exist, a teacher that gives logits only.
    """
    embeddings = embeddings_for(cfg, setting)
    dataset = setting.dataset
    draws = ClassDraws(dataset.train.labels, len(dataset.classes))
    term = CrdTerm(cfg, embeddings, draws, MemoryBanks(len(dataset.train), cfg.dim, dataset.split_sha256))
    return objective(cfg, setting, term, weight=cfg.weight, student_layers=(embeddings.student_layer,),
                     teacher_layers=(embeddings.teacher_layer,))


class CrdTerm(nn.Module):
    """Both sides of the loss: student against the teacher's bank, teacher against the student's."""

    def __init__(self, cfg: Crd, embeddings: Embeddings, draws: ClassDraws, banks: MemoryBanks) -> None:
        super().__init__()
        self.cfg, self.embeddings, self.draws, self.banks = cfg, embeddings, draws, banks

    def forward(self, student_outputs: Outputs, teacher_outputs: Outputs, batch: Batch) -> Tensor:
        """The unweighted loss (); sets Z in the first batch, and updates the banks after the scores are taken."""
        cfg, banks = self.cfg, self.banks
        student, teacher = self.embeddings(student_outputs, teacher_outputs)
        indices, labels = batch.indices.to(student.device), batch.labels.to(student.device)
        positives = indices if cfg.positives == "exact" else self.draws.same(labels)
        drawn = draw(positives, self.draws.others(labels, cfg.negatives), banks.student)
        student_scores = bank_scores(student, banks.teacher, drawn, cfg.tau)
        teacher_scores = bank_scores(teacher, banks.student, drawn, cfg.tau)
        if not banks.z_is_set:
            banks.set_z(log_mean_score(student_scores, cfg.negatives), log_mean_score(teacher_scores, cfg.negatives))
        images = len(banks.student)
        loss = (nce_loss(student_scores, banks.log_z_student, cfg.negatives, images)
                + nce_loss(teacher_scores, banks.log_z_teacher, cfg.negatives, images))
        banks.update(indices, student, teacher, cfg.momentum)
        return loss

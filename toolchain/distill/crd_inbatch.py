"""InfoNCE between student and teacher within a batch (van den Oord et al. 2018, arXiv:1807.03748).

Cheaper than CRD and without its memory banks, but with as many negatives as the batch has: not CRD, and not to be
reported as such. Batches of 128 images and more are advisable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.data.loader import Batch
from toolchain.distill.embeddings import Embeddings, embeddings_for
from toolchain.distill.features import Outputs
from toolchain.distill.objective import Setting, objective
from toolchain.recipe.distill import CrdInbatch

if TYPE_CHECKING:
    from toolchain.train import Loss


def infonce_inbatch(
    student_embedding: Tensor, teacher_embedding: Tensor, labels: Tensor | None, tau: float
) -> Tensor:
    """Mean cross-entropy of finding one's own image among the batch's, from student to teacher and back, in nats.

    student_embedding, teacher_embedding: (B, dim) of unit length. labels: int64 (B,) for the supervised form (after
    Khosla et al. 2020), in which other images of the same class are no negatives; None: they are. Returns ().
    """
    logits = student_embedding @ teacher_embedding.T / tau
    if labels is not None:
        same = (labels[:, None] == labels).fill_diagonal_(False)
        logits = logits.masked_fill(same, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def crd_inbatch(cfg: CrdInbatch, setting: Setting) -> Loss:
    """ce_weight * CE + weight * infonce_inbatch + kd_weight * soft targets; each process contrasts its own batch."""
    term = InbatchTerm(cfg, embeddings_for(cfg, setting))
    return objective(cfg, setting, term, weight=cfg.weight, student_layers=(term.embeddings.student_layer,),
                     teacher_layers=(term.embeddings.teacher_layer,))


class InbatchTerm(nn.Module):
    """infonce_inbatch of trained embeddings."""

    def __init__(self, cfg: CrdInbatch, embeddings: Embeddings) -> None:
        super().__init__()
        self.cfg, self.embeddings = cfg, embeddings

    def forward(self, student_outputs: Outputs, teacher_outputs: Outputs, batch: Batch) -> Tensor:
        """The unweighted loss ()."""
        student, teacher = self.embeddings(student_outputs, teacher_outputs)
        return infonce_inbatch(student, teacher, batch.labels if self.cfg.supervised else None, self.cfg.tau)

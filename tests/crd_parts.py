"""The toolchain's CRD on the small case of crd_reference.py, in float64, with given draws."""

from __future__ import annotations

import torch
from crd_reference import Case, Reference
from torch import Tensor, nn

from toolchain.data.loader import Batch
from toolchain.distill.crd import CrdTerm
from toolchain.distill.embeddings import Embeddings
from toolchain.distill.features import Outputs
from toolchain.distill.memory_banks import MemoryBanks
from toolchain.recipe.distill import Crd

SPLIT = "ab" * 32


class Given(nn.Module):
    """Draws that are given, in place of ClassDraws."""

    def __init__(self, negatives: Tensor, positives: Tensor | None = None) -> None:
        super().__init__()
        self.negatives, self.positives = negatives, positives

    def others(self, labels, number):
        assert self.negatives.shape == (len(labels), number)
        return self.negatives

    def same(self, labels):
        return self.positives


def section(**values) -> Crd:
    return Crd(**{"method": "crd", "teacher": {"model": {"arch": "vgg11"}}, "dim": 16, "negatives": 8, **values})


def term_of(case: Case, **values) -> CrdTerm:
    """Random banks and linears, the same for each call, in float64."""
    torch.manual_seed(5)
    cfg = section(dim=case.dim, negatives=case.negatives, **values)
    embeddings = Embeddings(("features", "features"), (5, 7), case.dim)
    return CrdTerm(cfg, embeddings, Given(torch.empty(0)), MemoryBanks(case.images, case.dim, SPLIT)).double()


def reference_of(term: CrdTerm) -> Reference:
    """The same state in numpy."""
    linears = {name: (linear.weight.detach().numpy().copy(), linear.bias.detach().numpy().copy())
               for name, linear in term.embeddings.named_children()}
    return Reference(term.banks.student.numpy().copy(), term.banks.teacher.numpy().copy(), linears, term.cfg.tau,
                     term.cfg.momentum)


def step(term: CrdTerm, case: Case, number: int, part: slice = slice(None), positives=None) -> Tensor:
    """The loss of one batch of the case, or of the part of it that a rank has."""
    term.draws = Given(torch.from_numpy(case.drawn[number][part]), positives)
    student, teacher = (Outputs(torch.empty(0), {"features": torch.from_numpy(case.features[name][number][part])})
                        for name in ("student", "teacher"))
    indices = torch.from_numpy(case.indices[number][part])
    return term(student, teacher, Batch(torch.empty(0), indices % 3, indices))

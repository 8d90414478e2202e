"""The memory of contrastive distillation: one embedding per training image and network (Tian et al. 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from toolchain.errors import TrainError

NOT_SET = math.inf  # log Z before the first batch


class MemoryBanks(nn.Module):
    """Embeddings of every training image, of the student and of the teacher, and both sides' constant Z.

    Buffers, so checkpoints keep them: `student`, `teacher` float32 (images, dim); `log_z_student`, `log_z_teacher` (),
    +inf until the first batch; `split` uint8 (32,), SHA-256 of the data's split. Loading a state of other images or of
    another split raises TrainError: its rows would belong to other images.
    """

    student: Tensor
    teacher: Tensor
    log_z_student: Tensor
    log_z_teacher: Tensor
    split: Tensor

    def __init__(self, images: int, dim: int, split_sha256: str) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim / 3)  # rows of length 1 on average, as in the authors' code
        self.register_buffer("student", torch.empty(images, dim).uniform_(-bound, bound))
        self.register_buffer("teacher", torch.empty(images, dim).uniform_(-bound, bound))
        self.register_buffer("log_z_student", torch.tensor(NOT_SET))
        self.register_buffer("log_z_teacher", torch.tensor(NOT_SET))
        self.register_buffer("split", torch.tensor(list(bytes.fromhex(split_sha256)), dtype=torch.uint8))
        self.z_is_set = False  # spares a look at the buffers, for which a GPU would have to be waited
        self.register_load_state_dict_pre_hook(_check_images)

    @torch.no_grad()
    def set_z(self, student_log_mean: Tensor, teacher_log_mean: Tensor) -> None:
        """Z = (mean score of the first batch, over all ranks) * images; from then on it is constant.

        student_log_mean, teacher_log_mean: (), log of this rank's mean score.
        """
        ranks = gathered(torch.stack([student_log_mean, teacher_log_mean])[None])  # (ranks, 2)
        fresh = ranks.logsumexp(dim=0) - math.log(len(ranks)) + math.log(len(self.student))
        for log_z, value in zip((self.log_z_student, self.log_z_teacher), fresh, strict=True):
            log_z.copy_(torch.where(log_z.isinf(), value, log_z))  # one that was loaded stays
        self.z_is_set = True

    @torch.no_grad()
    def update(self, indices: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Move the batch's rows towards its embeddings: row <- (momentum * row + (1 - momentum) * e) / its length.

        indices: int64 (N,), positions in the train split. student, teacher: (N, dim). The rows of every rank's batch
        are written on every rank, so the banks stay equal.
        """
        indices, student, teacher = gathered(indices), gathered(student.detach()), gathered(teacher.detach())
        # An image that came twice has two embeddings; written both at once they may end mixed, so the later one counts.
        places = torch.arange(len(indices), device=indices.device)
        last = indices.new_zeros(len(self.student)).scatter_reduce_(0, indices, places, "amax")[indices]
        for bank, embeddings in ((self.student, student), (self.teacher, teacher)):
            rows = momentum * bank[indices] + (1 - momentum) * embeddings[last]
            bank.index_copy_(0, indices, F.normalize(rows, dim=1))


def gathered(values: Tensor) -> Tensor:
    """The values of all ranks in the ranks' order: (N, ...) -> (ranks * N, ...), N equal on all; no gradient."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def _check_images(banks: MemoryBanks, state: dict[str, Any], prefix: str, *_: Any) -> None:
    banks.z_is_set = False
    rows, split = state.get(f"{prefix}student"), state.get(f"{prefix}split")
    if rows is None or split is None:
        return  # load_state_dict itself names what is missing
    if len(rows) != len(banks.student) or not torch.equal(split.cpu(), banks.split.cpu()):
        raise TrainError(f"distill.method crd: its memory banks hold {len(rows)} images of split {_hex(split)}, but "
                         f"this dataset has {len(banks.student)} images of split {_hex(banks.split)}; bring the data "
                         "back as it was, or train this stage again from its start")


def _hex(split: Tensor) -> str:
    return bytes(split.tolist()).hex()[:12]

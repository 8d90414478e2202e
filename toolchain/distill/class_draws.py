"""Random training images of the same class, or of any other class, for a whole batch at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolchain.errors import TrainError

WIDE = 2**62  # random integers below this, modulo the number of choices: the bias is choices / 2^62


class ClassDraws(nn.Module):
    """The train split's images sorted by class: a class is a block, so a draw outside it only skips that block.

    Draws come from torch's global generator, which the training loop seeds anew each epoch.
    """

    order: Tensor  # int64 (images,): positions in the train split, sorted by class
    start: Tensor  # int64 (K,): where a class's block starts in `order`
    size: Tensor  # int64 (K,): its length

    def __init__(self, labels: NDArray[np.int64], classes: int) -> None:
        super().__init__()
        size = np.bincount(labels, minlength=classes)
        if (size > 0).sum() < 2:
            raise TrainError(f"distill.method crd: the {len(labels)} training images are all of one class, but its "
                             "negatives are images of other classes; use data of more classes, or another method")
        blocks = {"order": np.argsort(labels, kind="stable"), "start": np.cumsum(size) - size, "size": size}
        for name, values in blocks.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)  # known from the data

    def same(self, labels: Tensor) -> Tensor:
        """One image of each label's class. labels: int64 (N,). Returns positions in the train split, int64 (N,)."""
        return self.order[self.start[labels] + _below(self.size[labels])]

    def others(self, labels: Tensor, number: int) -> Tensor:
        """`number` images of other classes per label, with replacement. Returns positions, int64 (N, number)."""
        start, size = self.start[labels, None], self.size[labels, None]
        place = _below((len(self.order) - size).expand(-1, number))
        return self.order[place + (place >= start) * size]


def _below(limit: Tensor) -> Tensor:
    return torch.randint(WIDE, limit.shape, device=limit.device) % limit

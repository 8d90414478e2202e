"""What the tests of distillation share: tiny networks with known logits, and a Setting around them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from train_data import squares

from toolchain.data.loader import Batch
from toolchain.distill.objective import Setting
from toolchain.recipe.schema import Train

TEACHER = {"model": {"arch": "vgg11"}}


class Fixed(nn.Module):
    """Gives the same logits for every image, and remembers in which mode and on which images it ran."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.modes: list[bool] = []
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.seen.append(images.detach().clone())
        return self.logits.expand(len(images), -1)


def batch(labels: list[int], first: int = 0) -> Batch:
    """Noise images whose positions in train are first, first + 1, …"""
    images = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(first))
    return Batch(images, torch.tensor(labels), torch.arange(first, first + len(labels)))


def setting(student: nn.Module, teacher: nn.Module | None, *, dataset=None, folder=None, **train: float) -> Setting:
    """A Setting on coloured squares with as many classes as the student has logits."""
    classes = tuple("abcdefgh"[: len(student.logits)]) if isinstance(student, Fixed) else ("red", "green", "blue")
    data = dataset or SimpleNamespace(**{**vars(squares()), "classes": classes})
    return Setting(student, teacher, data, Train(**train), lambda seed: student, folder)

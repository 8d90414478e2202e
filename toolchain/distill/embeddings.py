"""Embeddings on the unit sphere, which compare networks of different widths (Tian et al. 2020, arXiv:1910.10699)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.distill.features import PENULTIMATE, Outputs, Shapes, check_layer, layer_shapes, needs_features
from toolchain.errors import TrainError
from toolchain.recipe.distill import Crd, CrdInbatch

if TYPE_CHECKING:
    from toolchain.distill.objective import Setting


class Embeddings(nn.Module):
    """A trained Linear for each network, from the features of one layer to `dim` numbers of length 1."""

    def __init__(self, layers: tuple[str, str], sizes: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.student_layer, self.teacher_layer = layers
        self.student, self.teacher = nn.Linear(sizes[0], dim), nn.Linear(sizes[1], dim)

    def forward(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        """(student, teacher) embeddings, each (N, dim) in the dtype of this module's weights."""
        return (_embedded(student.features[self.student_layer], self.student),
                _embedded(teacher.features[self.teacher_layer], self.teacher))


def embeddings_for(cfg: Crd | CrdInbatch, setting: Setting) -> Embeddings:
    """Embeddings of the layers that `cfg` names, by default of what the last layers see.

    Raises TrainError for a layer that does not exist or gives no features per image, and for a teacher without layers.
    """
    teacher = needs_features(setting.teacher, cfg.method)
    size = setting.dataset.preprocess.image_size
    student_layer, teacher_layer = cfg.student_layer or PENULTIMATE, cfg.teacher_layer or PENULTIMATE
    sizes = (_size(student_layer, layer_shapes(setting.student, size), "distill.student_layer"),
             _size(teacher_layer, layer_shapes(teacher, size), "distill.teacher_layer"))
    return Embeddings((student_layer, teacher_layer), sizes, cfg.dim)


def _size(layer: str, shapes: Shapes, field: str) -> int:
    shape = shapes[check_layer(layer, shapes, field)]
    if len(shape) not in (1, 3):
        raise TrainError(f"{field}: '{layer}' gives {len(shape)} dimensions per image, {shape}; expected features (D,) "
                         f"or feature maps (C, H, W), for example {PENULTIMATE}")
    return shape[0]


def _embedded(features: Tensor, linear: nn.Linear) -> Tensor:
    """features: (N, D), or (N, C, H, W), which are averaged over their positions."""
    pooled = features.mean(dim=(2, 3)) if features.ndim == 4 else features
    return F.normalize(linear(pooled.to(linear.weight.dtype)), dim=1)

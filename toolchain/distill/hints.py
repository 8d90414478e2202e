"""Hints (FitNets: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, arXiv:1412.6550)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.distill.divergence import at_least_float32
from toolchain.distill.features import Outputs, Shapes, check_layer, layer_shapes, needs_features, second_stage
from toolchain.distill.objective import Setting, Weights, objective, scheduled
from toolchain.errors import TrainError
from toolchain.recipe.distill import Hints
from toolchain.train import Progress

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss

Shape = tuple[int, ...]


class HintTerm(nn.Module):
    """hint_loss between two layers; its regressor is trained beside the student and thrown away with the loss."""

    def __init__(self, student_layer: str, teacher_layer: str, regressor: nn.Module) -> None:
        super().__init__()
        self.student_layer, self.teacher_layer, self.regressor = student_layer, teacher_layer, regressor

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        mapped = self.regressor(at_least_float32(student.features[self.student_layer]))
        return hint_loss(mapped, teacher.features[self.teacher_layer])


def hint_loss(mapped: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean squared difference over all elements: ().

    mapped: the regressor's output, teacher_feature: what it should be, both (N, C, H, W); no gradient reaches the
    teacher. Half precision is computed in float32, float64 stays. The paper's 1/2 ||.||^2 per image is C H W / 2 times
    this; the weight 100 belongs to the mean.
    """
    return F.mse_loss(at_least_float32(mapped), at_least_float32(teacher_feature.detach()))


def regressor(student_shape: Shape, teacher_shape: Shape) -> nn.Module:
    """Convolution, BatchNorm and ReLU from one (C, H, W) to the other, as in RepDistiller.

    Half the resolution: 3x3 of stride 2. Twice: transposed 4x4 of stride 2. Otherwise an unpadded convolution that
    reaches the teacher's size, 1x1 where they are equal. Raises TrainError when nothing of this fits.
    """
    if not _fits(student_shape, teacher_shape):
        raise TrainError(f"distill: a map of {_words(student_shape)} cannot be made {_words(teacher_shape)}; expected "
                         "feature maps (C, H, W), the student's at least as large as the teacher's or exactly half")
    (inputs, height, width), (outputs, wanted_height, wanted_width) = student_shape, teacher_shape
    if (height, width) == (2 * wanted_height, 2 * wanted_width):
        convolution: nn.Module = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (wanted_height, wanted_width):
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(inputs, outputs, (1 + height - wanted_height, 1 + width - wanted_width))
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def hints(cfg: Hints, setting: Setting) -> Loss:
    """joint: ce_weight * CE + weight * hint_loss + kd_weight * soft targets. two_stage: see `staged`.

    Layers that are not named are the ends of the second stages. Raises TrainError for layers that do not exist or whose
    shapes cannot be mapped, and for a teacher without layers.
    """
    size = setting.dataset.preprocess.image_size
    students = layer_shapes(setting.student, size)
    teachers = layer_shapes(needs_features(setting.teacher, "hints"), size)
    student_layer = _chosen(cfg.student_layer, students, "distill.student_layer")
    teacher_layer = _chosen(cfg.teacher_layer, teachers, "distill.teacher_layer")
    if not _fits(students[student_layer], teachers[teacher_layer]):
        raise TrainError(_misfit(student_layer, teacher_layer, students, teachers[teacher_layer]))
    term = HintTerm(student_layer, teacher_layer, regressor(students[student_layer], teachers[teacher_layer]))
    return objective(cfg, setting, term, weight=cfg.weight, student_layers=[student_layer],
                     teacher_layers=[teacher_layer], weights=partial(staged, cfg) if cfg.mode == "two_stage" else None)


def staged(cfg: Hints, progress: Progress) -> Weights:
    """The weights of one epoch in two stages: the hint alone, then labels and soft targets without it.

    The first stage is init_fraction of the epochs, and each stage has at least one; a run of a single epoch has no room
    for two and takes all terms at once. Warm-up and early stop are the second stage's. In the first one the layers
    behind the hint get a gradient of zero: they feel weight decay alone, and their BatchNorm statistics follow.
    """
    everything = scheduled(cfg, progress, cfg.weight)
    if progress.epochs == 1:
        return everything
    if progress.epoch < min(max(1, round(cfg.init_fraction * progress.epochs)), progress.epochs - 1):
        return Weights(0.0, cfg.weight, 0.0)
    return everything._replace(method=0.0)


def _chosen(name: str | None, shapes: Shapes, field: str) -> str:
    return second_stage(shapes, field) if name is None else check_layer(name, shapes, field)


def _fits(student: Shape, teacher: Shape) -> bool:
    if len(student) != 3 or len(teacher) != 3:
        return False
    larger = student[1] >= teacher[1] and student[2] >= teacher[2]
    return larger or (2 * student[1], 2 * student[2]) == teacher[1:]


def _misfit(student_layer: str, teacher_layer: str, students: Shapes, wanted: Shape) -> str:
    """One sentence with the layers of the student that would fit: of the teacher's resolution first, at most five."""
    found = f"'{student_layer}' gives {_words(students[student_layer])}"
    if len(wanted) != 3:
        return f"distill.teacher_layer: '{teacher_layer}' gives {_words(wanted)}, expected a feature map (C, H, W)"
    fitting = sorted((name for name, shape in students.items() if _fits(shape, wanted)),
                     key=lambda name: (abs(students[name][1] - wanted[1]), name.count(".")))
    instead = f"choose {', '.join(fitting[:5])}" if fitting else "choose another distill.teacher_layer"
    return (f"distill.student_layer: {found}, which cannot be made the {_words(wanted)} of the teacher's "
            f"'{teacher_layer}'; {instead}")


def _words(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "single numbers"

"""Attention transfer (Zagoruyko, Komodakis 2017, arXiv:1612.03928), activation-based."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolchain.distill.divergence import at_least_float32
from toolchain.distill.features import (
    Outputs,
    Shapes,
    check_layer,
    layer_shapes,
    matching_stages,
    needs_features,
    stages,
)
from toolchain.distill.objective import Setting, objective
from toolchain.errors import TrainError
from toolchain.recipe.distill import AttentionTransfer

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def attention_map(feature: Tensor) -> Tensor:
    """Where the energy lies: (N, C, H, W) -> (N, H * W), the mean over channels of the squares, of L2 norm 1.

    Half precision is computed in float32, float64 stays. A map of zeros stays zero.
    """
    wide = torch.promote_types(feature.dtype, torch.float32)
    # the norm widens as it adds up: a float32 copy of every map would cost more than the whole loss
    energy = torch.linalg.vector_norm(feature, dim=1, dtype=wide).square() / feature.shape[1]
    return F.normalize(energy.flatten(1), dim=1)


def attention_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Sum over the pairs of the mean squared difference of their attention maps, over images and positions: ().

    student_features, teacher_features: each (N, C, H, W); within a pair C may differ, and the larger map is averaged
    to the smaller one's resolution first. No gradient reaches the teacher. The mean is RepDistiller's form, to which
    the weight 1000 belongs; the paper takes the norm of the difference.
    """
    losses = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        difference = attention_map(_averaged(student, size)) - attention_map(_averaged(teacher.detach(), size))
        losses.append(difference.square().mean())
    return sum(losses[1:], start=losses[0])


def attention_transfer(cfg: AttentionTransfer, setting: Setting) -> Loss:
    """ce_weight * CE + weight * attention_loss + kd_weight * soft targets.

    Layers that are not named are the ends of the stages of equal resolution. Raises TrainError for layers that do not
    exist or have no map, when no stages match, and for a teacher without layers.
    """
    size = setting.dataset.preprocess.image_size
    students = layer_shapes(setting.student, size)
    teachers = layer_shapes(needs_features(setting.teacher, "attention_transfer"), size)
    pairs = _matching(students, teachers) if cfg.layers is None else [
        (_map_layer(pair.student, students, f"distill.layers.{index}.student"),
         _map_layer(pair.teacher, teachers, f"distill.layers.{index}.teacher"))
        for index, pair in enumerate(cfg.layers)]

    def term(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return attention_loss([student.features[name] for name, _ in pairs],
                              [teacher.features[name] for _, name in pairs])

    return objective(cfg, setting, term, weight=cfg.weight, student_layers=[name for name, _ in pairs],
                     teacher_layers=[name for _, name in pairs])


def _averaged(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(at_least_float32(feature), size)


def _matching(students: Shapes, teachers: Shapes) -> list[tuple[str, str]]:
    pairs = matching_stages(students, teachers)
    if not pairs:
        raise TrainError(f"distill.layers: no stages of equal resolution: the student's are {_list(students)}, the "
                         f"teacher's {_list(teachers)}; name pairs of layers")
    return pairs


def _map_layer(name: str, shapes: Shapes, field: str) -> str:
    shape = shapes[check_layer(name, shapes, field)]
    if len(shape) != 3 or shape[1:] == (1, 1):  # the normalised map of one position is 1, whatever the network does
        raise TrainError(f"{field}: '{name}' gives {'x'.join(map(str, shape))}, expected a map (C, H, W) of more than "
                         f"one position; the stages end at {_list(shapes)}")
    return name


def _list(shapes: Shapes) -> str:
    return ", ".join(f"{name} ({shapes[name][1]}x{shapes[name][2]})" for name in stages(shapes)) or "none"

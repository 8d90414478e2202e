"""Whether a student looks where its teacher looks: cosines of Grad-CAM maps, image by image.

Grad-CAM maps are never negative, so any two have a positive cosine. The centred cosine (Pearson's correlation over
the positions) and a network of the same architecture with random weights say what a cosine is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain.data.loader import Batch
from toolchain.errors import DataError
from toolchain.gradcam.maps import grad_cam, in_eval_mode

FLAT = 1e-6  # float32 maps that vary less than this share of their size differ by rounding alone


class Similarity(NamedTuple):
    """What comparing two networks' maps gave, per test image: (N,) float64 and bool. grid: (h, w) compared on."""

    cosine: NDArray[np.float64]
    centred_cosine: NDArray[np.float64]
    random_cosine: NDArray[np.float64]  # of the random network and the teacher
    random_centred_cosine: NDArray[np.float64]
    student_zero: NDArray[np.bool_]  # maps without a positive value: nothing speaks for the class
    teacher_zero: NDArray[np.bool_]
    random_zero: NDArray[np.bool_]
    grid: tuple[int, int]


def compare_maps(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Batch], *, student_layer: str, teacher_layer: str,
    control: nn.Module, classes: Literal["labels", "teacher"] = "labels",
    advance: Callable[[int], None] = lambda images: None,
) -> Similarity:
    """Compare the maps of student and teacher over the whole test set; memory does not grow with the images' number.

    batches: in order, normalised. classes: the class asked about, the same for all networks: the image's label, or
    the teacher's answer. control: the student's architecture with other weights (see `random_twin`), compared with
    the teacher like the student. advance: told how many more images are done.
    Raises TrainError as `grad_cam`, DataError when there are no images.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in Similarity._fields if name != "grid"}
    grid = (0, 0)
    for batch in batches:
        asked = batch.labels if classes == "labels" else answers(teacher, batch.images)
        of_teacher = grad_cam(teacher, batch.images, asked, teacher_layer).cpu()
        of_student = grad_cam(student, batch.images, asked, student_layer).cpu()
        of_control = grad_cam(control, batch.images, asked, student_layer).cpu()
        ours, theirs = same_grid(of_student, of_teacher)
        random, _ = same_grid(of_control, of_teacher)
        found = {"cosine": cosine(ours, theirs), "centred_cosine": centred_cosine(ours, theirs),
                 "random_cosine": cosine(random, theirs), "random_centred_cosine": centred_cosine(random, theirs),
                 "student_zero": is_zero(of_student), "teacher_zero": is_zero(of_teacher),
                 "random_zero": is_zero(of_control)}
        for name, values in found.items():
            parts[name].append(values)
        grid = (ours.shape[1], ours.shape[2])
        advance(len(batch.labels))
    if grid == (0, 0):
        raise DataError("gradcam: found no test images, expected at least one batch")
    return Similarity(**{name: torch.cat(values).numpy() for name, values in parts.items()}, grid=grid)


def summary(
    found: Similarity, student_layer: str, teacher_layer: str, interval: Callable[[NDArray[np.float64]], Any]
) -> dict[str, Any]:
    """fidelity.json's `gradcam`, all but the sheet's name. interval: {value, low, high} of the mean of (N,) values."""
    return {"student_layer": student_layer, "teacher_layer": teacher_layer, "grid": list(found.grid),
            "cosine": interval(found.cosine), "centred_cosine": interval(found.centred_cosine),
            "random_cosine": float(found.random_cosine.mean()),
            "random_centred_cosine": float(found.random_centred_cosine.mean()),
            "student_zero_percent": 100.0 * float(found.student_zero.mean()),
            "teacher_zero_percent": 100.0 * float(found.teacher_zero.mean()),
            "random_zero_percent": 100.0 * float(found.random_zero.mean())}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64 cosine of maps (N, h, w), flattened; 0 where a map is zero."""
    return _cosine(a.double().flatten(1), b.double().flatten(1))


def centred_cosine(a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64 cosine after taking each map's mean from it: Pearson's correlation; 0 where a map is constant."""
    return _cosine(_centred(a), _centred(b))


def is_zero(maps: Tensor) -> Tensor:
    """(N,) bool: maps (N, h, w) without any value but 0."""
    return (maps == 0).flatten(1).all(dim=1)


def same_grid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, h, w) of both on the smaller grid, each value the mean of what it covers."""
    grid = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    small = [F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0] for maps in (a, b)]
    return small[0], small[1]


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64: the class with the highest logit, in eval mode; the model's modes are kept."""
    with in_eval_mode(model), torch.no_grad():
        return model(images.to(next(model.parameters(), images))).argmax(dim=1)


def random_twin(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model` (also of a pruned one) with random weights that depend on `seed` alone.

    He et al. 2015 (arXiv:1502.01852) for convolutions and Linear layers, zero biases, everything else as it begins;
    with PyTorch's own default a deep network without BatchNorm would not see its image. torch's generator is kept.
    """
    twin = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in twin.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    module.bias.zero_()
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(std=0.02)
    return twin.to(next(model.parameters(), torch.zeros(())).device)


def _centred(maps: Tensor) -> Tensor:
    flat = maps.double().flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    varies = centred.norm(dim=1, keepdim=True) > FLAT * flat.norm(dim=1, keepdim=True)
    return torch.where(varies, centred, 0.0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    sizes = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(sizes > 0, (a * b).sum(dim=1) / sizes.clamp(min=torch.finfo(sizes.dtype).tiny), 0.0)

"""What every method with a teacher shares: both networks see the same pixels, and three terms are weighted by epoch.

    loss = label weight * cross-entropy + method weight * the method's own term + soft weight * soft targets
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from toolchain.data.augment import is_fixed_view
from toolchain.data.loader import Batch
from toolchain.distill.divergence import soft_target_loss
from toolchain.distill.features import Outputs, watch
from toolchain.distill.recorded import Arrays, record, recorded
from toolchain.errors import TrainError
from toolchain.recipe.distill import DistillSection, Dkd, FeatureSection, TaughtSection
from toolchain.recipe.schema import Train
from toolchain.train import Progress, Step, cross_entropy

if TYPE_CHECKING:
    from toolchain.data import Dataset

# (student, teacher, batch) -> () in nats or the method's own unit; an nn.Module where it has weights or state. Features
# come in the dtype they were computed in: the term widens what it needs.
Term = Callable[[Outputs, Outputs, Batch], Tensor]

DKD_WARM_UP = 20  # epochs, of 240 in the paper's runs; a shorter run warms up for at most a tenth of itself


class Weights(NamedTuple):
    """What the three terms count in one epoch."""

    label: float
    method: float
    soft: float


@dataclass(frozen=True)
class Setting:
    """What a method is given to make its loss from.

    teacher: frozen and in eval mode; one from an ONNX file has logits only; None for a method without one.
    fresh_student: the student's n-th twin, n from 1, each initialised from another seed. folder: where the teacher's
    outputs may be kept during the run, None: nowhere.
    """

    student: nn.Module
    teacher: nn.Module | None
    dataset: Dataset
    train: Train
    fresh_student: Callable[[int], nn.Module]
    folder: Path | None = None


def scheduled(cfg: DistillSection, progress: Progress, weight: float) -> Weights:
    """The weights of one epoch: warm-up counts epochs from 1 (DKD), early stop ends it (Cho, Hariharan 2019).

    weight: of the method's own term, at full strength. After the stop the method and soft weights are exactly 0 and the
    label weight is 1, whatever `ce_weight` was: the labels alone finish the training.
    """
    if _silent_after(cfg, progress.epochs) <= progress.epoch:
        return Weights(1.0, 0.0, 0.0)
    share = _warm_up(cfg, progress) * _fading(cfg, progress)
    soft = cfg.kd_weight if isinstance(cfg, FeatureSection) else 0.0
    return Weights(getattr(cfg, "ce_weight", 0.0), share * weight, share * soft)


def objective(
    cfg: TaughtSection, setting: Setting, term: Term, *, weight: float, student_layers: Sequence[str] = (),
    teacher_layers: Sequence[str] = (), mix: Callable[[Tensor], Tensor] | None = None,
    weights: Callable[[Progress], Weights] | None = None,
) -> Objective:
    """The loss of a method whose own `term` counts `weight`.

    student_layers, teacher_layers: whose outputs the term finds in `features`. mix: makes the images that both networks
    see from a batch's (n, 3, S, S); labels of mixes are not used, so its section has no ce_weight. weights: in place of
    `scheduled`. Raises TrainError when the teacher's classes are not the dataset's.
    """
    return Objective(cfg, setting, term, weights or (lambda progress: scheduled(cfg, progress, weight)),
                     tuple(student_layers), tuple(teacher_layers), mix)


class Objective(nn.Module):
    """A Loss for the training loop. Only the term's weights and state are its own: the teacher is no submodule."""

    def __init__(
        self, cfg: TaughtSection, setting: Setting, term: Term, weights: Callable[[Progress], Weights],
        student_layers: tuple[str, ...], teacher_layers: tuple[str, ...], mix: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__()
        assert setting.teacher is not None
        self.term, self.weights, self.mix, self.train_cfg = term, weights, mix, setting.train
        self.temperature = getattr(cfg, "temperature", 1.0)
        self.student_run = watch(setting.student, student_layers)
        self.teach = _teaching(cfg, setting, teacher_layers, mix is None)

    def forward(self, model: nn.Module, batch: Batch, progress: Progress) -> Step:
        """The weighted sum; parts: each term that counts, and the three weights."""
        weights = self.weights(progress)
        taught = weights.method > 0 or weights.soft > 0
        if self.mix and taught:
            batch = batch._replace(images=self.mix(batch.images))
        student = self.student_run(model, batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            # Counted even at weight 0, so that every parameter has a gradient: DDP waits for all of them.
            label = cross_entropy(student.logits, batch.labels, self.train_cfg)
            loss = weights.label * label
        parts = {} if self.mix and taught else {"label": label}  # a mix has no label
        if taught:
            teacher = self.teach(batch)
            with torch.autocast(batch.images.device.type, enabled=False):
                if weights.method > 0:
                    parts["method"] = self.term(student, teacher, batch)
                    loss = loss + weights.method * parts["method"]
                if weights.soft > 0:
                    parts["soft"] = soft_target_loss(student.logits, teacher.logits, self.temperature)
                    loss = loss + weights.soft * parts["soft"]
        return Step(loss, student.logits, {**parts, **{f"{name}_weight": w for name, w in weights._asdict().items()}})


def _teaching(
    cfg: TaughtSection, setting: Setting, layers: tuple[str, ...], repeats: bool
) -> Callable[[Batch], Outputs]:
    """The teacher's outputs for a batch: computed, or read back where every epoch shows the same pixels."""
    teacher, dataset = setting.teacher, setting.dataset
    assert teacher is not None
    teacher.eval().requires_grad_(False)
    _check_classes(teacher, dataset)
    run = watch(teacher, layers)
    layout = torch.channels_last if setting.train.channels_last else torch.contiguous_format
    folder = setting.folder if cfg.teacher_cache_mb and repeats and is_fixed_view(dataset.augment) else None
    kept: list[Arrays | None] = []  # filled when the first batch says which device and arithmetic are used

    def teach(batch: Batch) -> Outputs:
        device = batch.images.device
        teacher.to(device).to(memory_format=layout)  # type: ignore[call-overload]

        def look(images: Tensor) -> Outputs:
            with torch.no_grad():
                return run(teacher, images.to(device, memory_format=layout))

        if folder is not None and not kept:
            kept.append(record(folder / "teacher_outputs", dataset, look, setting.train.batch_size,
                               cfg.teacher_cache_mb))
        return recorded(kept[0], batch.indices, device) if kept and kept[0] else look(batch.images)

    return teach


def _check_classes(teacher: nn.Module, dataset: Dataset) -> None:
    size = dataset.preprocess.image_size
    first = next(teacher.parameters(), torch.empty(0))
    with torch.no_grad():
        logits = teacher(torch.zeros(2, 3, size, size, device=first.device))
    if not logits.isfinite().all():
        raise TrainError("distill.teacher: its logits for a grey image are NaN or infinite; its weights are damaged, "
                         "or its training failed: use another teacher")
    if (found := logits.shape[1]) != len(dataset.classes):
        raise TrainError(f"distill.teacher: it has {found} classes, dataset {dataset.name} has {len(dataset.classes)}; "
                         "use a teacher of the same dataset")


def _silent_after(cfg: DistillSection, epochs: int) -> int:
    """Number of epochs with the teacher: at least one."""
    return epochs if cfg.early_stop is None else max(1, round(cfg.early_stop.after * epochs))


def _warm_up(cfg: DistillSection, progress: Progress) -> float:
    rising = cfg.warmup_epochs
    if rising is None:
        rising = min(DKD_WARM_UP, progress.epochs // 10) if isinstance(cfg, Dkd) else 0
    return min((progress.epoch + 1) / rising, 1.0) if rising else 1.0


def _fading(cfg: DistillSection, progress: Progress) -> float:
    fall = cfg.early_stop.ramp * progress.epochs if cfg.early_stop else 0.0
    return min((_silent_after(cfg, progress.epochs) - progress.epoch) / fall, 1.0) if fall else 1.0

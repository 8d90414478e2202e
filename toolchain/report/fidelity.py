"""The `fidelity` part of report.json, which is fidelity.json as its stage wrote it, and what a lesson left behind.

Definitions of the figures: toolchain/measure/fidelity.py and toolchain/gradcam/similarity.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolchain.report.part import NotNegative, Part, Percent

Cosine = Annotated[float, Field(ge=-1.000001, le=1.000001)]  # a mean of cosines may be a rounding error above 1


class Interval(Part):
    """A mean over the test images with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


class TeacherFacts(Part):
    """Who the students are compared with."""

    name: str
    top1_percent: Percent
    top1_interval: tuple[Percent, Percent] = Field(description="95 %")


class EngineFidelity(Part):
    """How near one engine answers to the teacher."""

    name: str
    top1_percent: Percent
    kl_nats: Interval = Field(description="KL(teacher || student) at temperature 1")
    kl_epsilon_nats: NotNegative = Field(description="the same with 1e-10 added to every probability")
    js_nats: NotNegative
    agreement_percent: Interval = Field(description="share of images with the teacher's answer, right or wrong")


class GradCam(Part):
    """Whether the float student looks where the teacher looks."""

    student_layer: str
    teacher_layer: str
    grid: tuple[int, int] = Field(description="height and width that the maps are compared on")
    cosine: Interval
    centred_cosine: Interval
    random_cosine: Cosine = Field(description="of the student's architecture with random weights")
    random_centred_cosine: Cosine
    student_zero_percent: Percent = Field(description="share of images whose map is zero everywhere")
    teacher_zero_percent: Percent
    random_zero_percent: Percent | None = None
    sheet: str = Field(pattern=r"^[\w.-]+$", description="picture file beside the report")


class JitterDrop(Part):
    """One engine on jittered images."""

    name: str
    top1_percent: Percent
    drop: Interval = Field(description="points of top-1 lost, image by image")


class JitterFacts(Part):
    """The same networks on one frozen realisation of colour jitter."""

    settings: dict[str, float | int]
    teacher_top1_percent: Percent
    engines: list[JitterDrop]


class Fidelity(Part):
    """What was taught, beyond being right."""

    teacher: TeacherFacts
    images: int = Field(ge=1)
    engines: list[EngineFidelity]
    gradcam: GradCam | None = None
    gradcam_reason: str | None = Field(None, description="why `gradcam` is null")
    jitter: JitterFacts | None = None


class Taught(Part):
    """taught.json: what a training run with a method of distillation left behind."""

    method: str
    teacher_sha256: str | None = Field(None, description="of the teacher's weights, the same before and after")
    peers_val_top1: list[Percent] | None = Field(None, description="of students that taught each other")
    mean: Percent | None = None
    best: int | None = Field(None, ge=0, description="index of the peer that the student became")

"""The measure.fidelity section: how near the student is to its teacher, beyond being right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolchain.recipe.data import Jitter
from toolchain.recipe.distill import Teacher
from toolchain.recipe.section import Section


class FrozenJitter(Jitter):
    """One realisation of colour jitter over the test set, the same for every network."""

    seed: int = Field(0, ge=0, lt=2**31, description="of the realisation; the same seed gives the same pixels")


class Fidelity(Section):
    """What was taught: KL, Jensen-Shannon and agreement with the teacher, Grad-CAM maps, and colour invariance."""

    teacher: Teacher | None = Field(None, description="null: distill.teacher; for students that nobody taught")
    gradcam: bool = Field(True, description="compare where both look; needs networks in PyTorch")
    student_layer: str | None = Field(None, description="for Grad-CAM; null: the last layer with maps of 4x4 or more")
    teacher_layer: str | None = Field(None, description="for Grad-CAM; null: the last layer with maps of 4x4 or more")
    classes: Literal["labels", "teacher"] = Field("labels", description="the class the maps speak for")
    sheet_images: int = Field(8, ge=1, le=64, description="images on the picture sheet")
    jitter: FrozenJitter | None = Field(None, description="also judge on a colour-jittered test set")

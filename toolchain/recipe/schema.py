"""The YAML recipe as frozen pydantic models, one per section, in pipeline order.

A method's name selects its parameters (discriminated unions), so wrong combinations cannot be written.
Reading a recipe has no side effects and imports neither torch nor a runtime.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from toolchain.recipe.data import (
    Augment,
    Cifar10,
    Cifar100,
    Data,
    DataSection,
    Digits,
    Folder,
    Parquet,
)
from toolchain.recipe.deploy import (
    RTX_SMS,
    Batch,
    Engine,
    Export,
    Holds,
    Limits,
    Measure,
    OpenVinoEngine,
    OrtEngine,
    RtxEngine,
    TrtEngine,
)
from toolchain.recipe.distill import (
    Distill,
    Teacher,
    TeacherCheckpoint,
    TeacherInline,
    TeacherOnnx,
    TeacherRecipe,
)
from toolchain.recipe.fidelity import Fidelity, FrozenJitter
from toolchain.recipe.network import (
    ARCHITECTURES,
    AdamW,
    FineTune,
    Fraction,
    MixedPrecision,
    Model,
    OnnxModel,
    Optimizer,
    Sgd,
    TorchModel,
    Train,
)
from toolchain.recipe.precision import DEFAULT_PRECISIONS, PRECISIONS, Precision
from toolchain.recipe.prune import Channels, Lottery, Prune
from toolchain.recipe.quantize import (
    CalibrationImages,
    Calibrator,
    EntropyCalibrator,
    Gpfq,
    HalfFinetune,
    Int4,
    Int8,
    Lsq,
    MaxCalibrator,
    MseCalibrator,
    PercentileCalibrator,
    Ptq,
    Qat,
    QatTrain,
    Quantize,
    QuantizeSection,
    Ste,
)
from toolchain.recipe.section import Section

__all__ = [
    "ARCHITECTURES",
    "AdamW",
    "Augment",
    "Batch",
    "CalibrationImages",
    "Calibrator",
    "Channels",
    "Cifar10",
    "Cifar100",
    "DEFAULT_PRECISIONS",
    "Data",
    "DataSection",
    "Digits",
    "Distill",
    "Engine",
    "EntropyCalibrator",
    "Export",
    "Fidelity",
    "FineTune",
    "Folder",
    "Fraction",
    "FrozenJitter",
    "Gpfq",
    "HalfFinetune",
    "Holds",
    "Int4",
    "Int8",
    "Limits",
    "Lsq",
    "MaxCalibrator",
    "Measure",
    "MixedPrecision",
    "Model",
    "MseCalibrator",
    "OnnxModel",
    "OpenVinoEngine",
    "Optimizer",
    "OrtEngine",
    "PRECISIONS",
    "Parquet",
    "PercentileCalibrator",
    "Precision",
    "Prune",
    "Ptq",
    "Qat",
    "QatTrain",
    "Quantize",
    "QuantizeSection",
    "RTX_SMS",
    "Recipe",
    "RtxEngine",
    "Section",
    "Sgd",
    "Ste",
    "Teacher",
    "TeacherCheckpoint",
    "TeacherInline",
    "TeacherOnnx",
    "TeacherRecipe",
    "TorchModel",
    "Train",
    "TrtEngine",
]

LEAVE_ZEROS = ("magnitude", "lottery", "sparse24")  # pruning methods whose networks keep their shape


class Recipe(Section):
    """One YAML file: everything a build depends on, in pipeline order."""

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the output folder")
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Digits(source="digits")
    model: Model
    train: Train = Train()
    distill: Distill | None = None
    prune: Prune | None = None
    quantize: Quantize = Ptq(method="ptq")
    export: Export = Export()
    engines: tuple[Engine, ...] | None = Field(None, description="null: every precision of each installed runtime")
    measure: Measure = Measure()
    limits: Limits = Limits()

    @field_validator("engines")
    @classmethod
    def _some_engine(cls, engines: tuple[Engine, ...] | None) -> tuple[Engine, ...] | None:
        if engines is not None and not engines:
            raise ValueError("the list is empty; name at least one engine, or leave it out for the default")
        return engines

    @model_validator(mode="after")
    def _own_onnx_has_no_torch_side(self) -> Recipe:
        if isinstance(self.model, OnnxModel):
            sections: list[str] = [name for name in ("train", "distill", "prune")
                                   if name in self.model_fields_set and getattr(self, name)]
            if isinstance(self.quantize, (Qat, HalfFinetune)):
                sections.append(f"quantize: {self.quantize.method}")
            if sections:
                named = ", ".join(sections)
                raise ValueError(f"model.onnx is a finished network: remove {named}, or use model.arch")
        return self

    @model_validator(mode="after")
    def _fidelity_has_one_teacher(self) -> Recipe:
        fidelity, taught = self.measure.fidelity, getattr(self.distill, "teacher", None) is not None
        if fidelity and fidelity.teacher is None and not taught:
            raise ValueError("measure.fidelity compares with a teacher, but this recipe has none: name one in "
                             "measure.fidelity.teacher, or remove measure.fidelity")
        if fidelity and fidelity.teacher is not None and taught:
            raise ValueError("measure.fidelity.teacher: distill.teacher is compared already; remove one of them")
        if fidelity and isinstance(self.model, OnnxModel):
            raise ValueError("measure.fidelity compares a student that was trained here with its teacher, but the "
                             "model is a finished ONNX file: use `toolchain compare`, or model.arch")
        return self

    @model_validator(mode="after")
    def _what_is_trained_is_built(self) -> Recipe:
        wanted = {Qat: ("int8", "int4"), HalfFinetune: (getattr(self.quantize, "dtype", ""),)}.get(type(self.quantize))
        found = [engine.precision for engine in self.engines or ()]
        if wanted and found and not set(wanted) & set(found):
            raise ValueError(f"quantize: {self.quantize.method} trains for {' and '.join(wanted)} engines, but engines "
                             f"asks for {', '.join(dict.fromkeys(found))} only; add an engine with precision "
                             f"{' or '.join(wanted)}, or use quantize: ptq")
        return self

    @model_validator(mode="after")
    def _gpfq_fits(self) -> Recipe:
        if not isinstance(self.quantize, Gpfq):
            return self
        if self.prune and self.prune.method in LEAVE_ZEROS:
            raise ValueError(f"prune.method: {self.prune.method} leaves zeros, which quantize: gpfq would fill with "
                             "the errors of other weights; use quantize: ptq, or prune.method: channels")
        for index, engine in enumerate(self.engines or ()):
            if self.quantize.holds_others(engine.precision):
                raise ValueError(f"engines.{index}: {engine.precision} does not hold the {self.quantize.bits}-bit "
                                 f"{self.quantize.alphabet} codes of quantize: gpfq; use precision "
                                 f"{' or '.join(self.quantize.precisions)}")
        asked = [engine.precision for engine in self.engines or ()]
        if asked and not set(asked) & set(self.quantize.precisions):
            raise ValueError(f"quantize: gpfq makes codes for {' and '.join(self.quantize.precisions)} engines, but "
                             f"engines asks for {', '.join(dict.fromkeys(asked))} only; add an engine with precision "
                             f"{' or '.join(self.quantize.precisions)}, or use quantize: ptq")
        return self

    @model_validator(mode="after")
    def _mixed_engines_and_their_section(self) -> Recipe:
        asked = [index for index, engine in enumerate(self.engines or ()) if engine.precision == "mixed"]
        if self.quantize.mixed and isinstance(self.quantize, Gpfq):
            raise ValueError("quantize.mixed: the codes of quantize: gpfq have one width; use quantize: ptq, or remove "
                             "mixed")
        if asked and self.quantize.mixed is None:
            raise ValueError(f"engines.{asked[0]}: precision mixed needs a quantize.mixed section that says which "
                             "layer gets which; add `mixed: simple`, or `mixed: {policy: budget, bytes: 0.25}`")
        if self.quantize.mixed and self.engines is not None and not asked:
            raise ValueError("quantize.mixed: no engine is mixed; add {runtime: onnxruntime, precision: mixed} to "
                             "engines, or remove the section")
        return self

    @model_validator(mode="after")
    def _rewinding_ends_within_training(self) -> Recipe:
        if isinstance(self.prune, Lottery) and (self.prune.rewind_epoch or 0) > self.train.epochs:
            raise ValueError(f"prune.rewind_epoch: found {self.prune.rewind_epoch}, but train.epochs is "
                             f"{self.train.epochs}; use a smaller rewind_epoch (0: the initialisation)")
        return self

    @model_validator(mode="after")
    def _measured_batch_is_in_every_profile(self) -> Recipe:
        for index, engine in enumerate(self.engines or ()):
            profile = getattr(engine, "batch", None)
            if profile and not profile.min <= self.measure.batch <= profile.max:
                raise ValueError(f"measure.batch is {self.measure.batch}, outside the profile of engines.{index} "
                                 f"({profile.min} to {profile.max}); change one of them")
        return self

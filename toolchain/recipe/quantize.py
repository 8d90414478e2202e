"""The `quantize` section: how ranges and codes are found, and what each precision keeps in float."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import BeforeValidator, Field, model_validator

from toolchain.recipe.mixed import Mixed
from toolchain.recipe.network import FineTune, MixedPrecision, Optimizer, Sgd
from toolchain.recipe.precision import Precision
from toolchain.recipe.repair import Repair
from toolchain.recipe.section import Section, method_name

CODED: tuple[Precision, ...] = ("int4", "int8_weight_only", "int8")  # engines that can run GPFQ's very codes


class MaxCalibrator(Section):
    """amax = largest magnitude seen."""

    method: Literal["max"]


class PercentileCalibrator(Section):
    """amax = this percentile of the magnitudes."""

    method: Literal["percentile"]
    percentile: float = Field(99.99, gt=50, le=100)


class EntropyCalibrator(Section):
    """amax that loses the least information (TensorRT's KL search)."""

    method: Literal["entropy"]


class MseCalibrator(Section):
    """amax with the smallest squared rounding and clipping error."""

    method: Literal["mse"]


Calibrator = Annotated[
    Union[MaxCalibrator, PercentileCalibrator, EntropyCalibrator, MseCalibrator],
    Field(discriminator="method"), BeforeValidator(method_name)]


class CalibrationImages(Section):
    """Which images calibrate: a set made by `toolchain calib`, or a draw from train."""

    set: str | None = Field(None, description="folder of a calibration set; null: draw from train")
    images: int = Field(512, ge=1, description="how many images")


KeepFloat = Annotated[tuple[str, ...], Field(description="names of layers that stay float, as the report has them")]


class Int8(Section):
    """W8A8: per-channel symmetric weights, per-tensor activations; int8_weight_only and fp8 choose layers by it too."""

    first_last: Literal["int8", "float"] = Field("int8", description="precision of the first and last layer")
    keep_float: KeepFloat = ()


class Int4(Section):
    """Weight-only, symmetric, one scale per block along the input axis."""

    block: Literal[32, 64, 128] = 32
    first_last: Literal["int4", "float"] = Field("int4", description="precision of the first and last layer")
    keep_float: KeepFloat = ()


class QuantizeSection(Section):
    """What PTQ and QAT share."""

    calibrator: Calibrator = EntropyCalibrator(method="entropy")
    calibration: CalibrationImages = CalibrationImages()
    int8: Int8 = Int8()
    int4: Int4 = Int4()
    mixed: Mixed | None = Field(None, description="a precision for each layer of the mixed engines, which start from "
                                                  "what the int8 engine starts from; null: no such engine")


class Ptq(QuantizeSection):
    """Post-training quantization: ranges from calibration images, weights rounded to nearest unless repaired."""

    method: Literal["ptq"]
    repair: Repair | None = Field(None, description="auto, or methods that win back accuracy; null: none")


class QatTrain(FineTune):
    """The fake-quantized fine-tuning run."""

    epochs: int = Field(2, ge=1)
    optimizer: Optimizer = Sgd(method="sgd", lr=2e-3, weight_decay=1e-4)
    mixed_precision: MixedPrecision = "no"


class Ste(Section):
    """Straight-through gradient: it passes inside the range and stops where an input is clipped."""

    method: Literal["ste"]
    freeze_observers_after: float | None = Field(
        None, gt=0, le=1, description="share of the epochs in which the inputs' ranges follow the training (a moving "
                                      "average of amax), fixed after; null: the calibrated ones from the start")


class Lsq(Section):
    """Esser et al. 2020: every scale, of weights and of inputs, is learned beside the weights."""

    method: Literal["lsq"]
    start: Literal["calibrated", "mean"] = Field(
        "calibrated", description="first scales: those that PTQ would use, or 2 mean|x| / sqrt(qmax) as in the paper")


Learn = Annotated[Union[Ste, Lsq], Field(discriminator="method"), BeforeValidator(method_name)]


class QatDistill(Section):
    """The float network as teacher: ce_weight * CE + kd_weight * T^2 * KL(float || fake-quantized)."""

    temperature: float = Field(4.0, gt=0)
    ce_weight: float = Field(0.1, ge=0)
    kd_weight: float = Field(0.9, gt=0)


class Qat(QuantizeSection):
    """Quantization-aware training: fake quantization during fine-tuning; evaluation keeps it on.

    The INT8 engines start from one run and the INT4 engines from another; only those asked for are trained.
    """

    method: Literal["qat"]
    provider: Literal["modelopt", "own"] | None = Field(
        None, description="who fake-quantizes INT8; null: modelopt where it can (ste, fixed ranges), else our own")
    learn: Learn = Ste(method="ste")
    distill: QatDistill | None = Field(None, description="let the float network teach; null: learn from the labels")
    train: QatTrain = QatTrain()

    @property
    def int8_provider(self) -> Literal["modelopt", "own"]:
        """Who fake-quantizes INT8; INT4 is always our own."""
        fixed = isinstance(self.learn, Ste) and self.learn.freeze_observers_after is None
        return self.provider or ("modelopt" if fixed else "own")

    @model_validator(mode="after")
    def _provider_can(self) -> Qat:
        if self.provider == "modelopt" and self.model_copy(update={"provider": None}).int8_provider == "own":
            wanted = "learn: lsq" if isinstance(self.learn, Lsq) else "learn.freeze_observers_after"
            raise ValueError(f"provider: modelopt does not know {wanted}; remove provider, or use learn: ste")
        return self


class HalfTrain(FineTune):
    """The fine-tuning run on half-precision weights; its arithmetic is the section's dtype where that is native."""

    epochs: int = Field(2, ge=1)
    optimizer: Optimizer = Sgd(method="sgd", lr=2e-3, weight_decay=1e-4)
    mixed_precision: Literal["auto"] = Field("auto", description="always by dtype")


class HalfFinetune(QuantizeSection):
    """Fine-tuning for an FP16 or BF16 engine: weights are rounded to it at every step, the gradient passes straight.

    On a GPU activations and gradients have that type too, with loss scaling for FP16; a CPU computes in FP32, as its
    engine does. Engines of other precisions start from the plain float network.
    """

    method: Literal["half_finetune"]
    dtype: Literal["fp16", "bf16"] = "fp16"
    train: HalfTrain = HalfTrain()


class Sparse(Section):
    """Zeros while rounding: give one of the two, in the unit of the weights."""

    l1: float | None = Field(None, gt=0, description="values shrink by it before they are rounded")
    l0: float | None = Field(None, gt=0, description="values up to it become 0, the levels begin there (float engine)")

    @model_validator(mode="after")
    def _one_of_them(self) -> Sparse:
        if (self.l1 is None) == (self.l0 is None):
            raise ValueError("expected one of l1, l0; for no sparsity leave sparse out")
        return self


class Gpfq(QuantizeSection):
    """GPFQ: weights rounded one after another, each answering the output error of those before it.

    Weight-only in INT4, INT8 weight-only and float engines; the INT8 engine adds calibrated INT8 activations.
    """

    method: Literal["gpfq"]
    bits: int = Field(4, ge=2, le=8)
    alphabet: Literal["deployable", "study"] = Field(
        "deployable", description="2^b - 1 levels, which fit b bits; or the published study's 2^b + 1, which do not")
    radius: Literal["layer", "channel"] = Field("layer", description="one step for a layer, or one per output channel")
    scalar: float = Field(1.16, gt=0, le=10, description="largest level / radius")
    percentile: float = Field(1.0, gt=0, le=1, description="radius: this quantile of |w|; 1: the largest")
    images: int = Field(128, ge=1, description="images whose inputs to each layer it sees")
    patches: float = Field(0.25, gt=0, le=1, description="share of an image's patches that a convolution sees")
    sparse: Sparse | None = None

    @property
    def largest_code(self) -> int:
        """Codes run from minus this to this; under l0 the study's alphabet has one more on each side."""
        if self.alphabet == "deployable":
            return 2 ** (self.bits - 1) - 1
        return 2 ** (self.bits - 1) + bool(self.sparse and self.sparse.l0)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Engines that run these very codes, smallest first; fp32, as float values, where no integer holds them."""
        if (self.sparse and self.sparse.l0) or self.largest_code > 127:
            return ("fp32",)
        return CODED if self.largest_code <= 7 else CODED[1:]

    def holds_others(self, precision: Precision) -> bool:
        """Whether an engine stores integers that cannot be these codes: it would silently be without GPFQ."""
        return precision in CODED and precision not in self.precisions

    @model_validator(mode="after")
    def _l0_leaves_two_levels(self) -> Gpfq:
        if self.sparse and self.sparse.l0 and self.largest_code < 2:
            raise ValueError("sparse.l0 with 2 bits of the deployable alphabet leaves no step between levels; use "
                             "bits: 3, or alphabet: study")
        return self


Quantize = Annotated[Union[Ptq, Qat, HalfFinetune, Gpfq], Field(discriminator="method"), BeforeValidator(method_name)]

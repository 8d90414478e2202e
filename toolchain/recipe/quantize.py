"""The `quantize` section: how ranges and codes are found, and what each precision keeps in float."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import BeforeValidator, Field, model_validator

from toolchain.recipe.mixed import Mixed
from toolchain.recipe.network import FineTune, MixedPrecision, Optimizer, Sgd
from toolchain.recipe.precision import Precision
from toolchain.recipe.repair import Repair
from toolchain.recipe.section import Section, method_name


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
    """W8A8: per-channel symmetric weights, per-tensor activations."""

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


class Qat(QuantizeSection):
    """Quantization-aware training: fake quantization during fine-tuning; evaluation keeps it on."""

    method: Literal["qat"]
    provider: Literal["modelopt"] = "modelopt"
    train: QatTrain = QatTrain()


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

    Weight-only in the INT4 engine and float ones; the INT8 engine adds calibrated INT8 activations.
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
        return ("int4", "int8") if self.largest_code <= 7 else ("int8",)

    @model_validator(mode="after")
    def _l0_leaves_two_levels(self) -> Gpfq:
        if self.sparse and self.sparse.l0 and self.largest_code < 2:
            raise ValueError("sparse.l0 with 2 bits of the deployable alphabet leaves no step between levels; use "
                             "bits: 3, or alphabet: study")
        return self


Quantize = Annotated[Union[Ptq, Qat, Gpfq], Field(discriminator="method"), BeforeValidator(method_name)]
